"""Prose without end for long prompts: varied, without a repeated sentence, the same for the same seed."""
