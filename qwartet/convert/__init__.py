"""Weights in the forms of other tools, written as a checkpoint that loads."""
