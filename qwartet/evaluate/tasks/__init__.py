"""The tasks: what each asks, how it reads an answer, and what its score is."""
