"""Asking a server that speaks OpenAI's API: streams of events, refusals, answers; imports no torch."""
