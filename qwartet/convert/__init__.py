"""Converts weights in the formats of other tools to a checkpoint that loads."""
