"""A client for OpenAI-compatible servers: event streams, refusals, answers; imports no torch."""
