"""Reading an answer out of a text, as the published scripts do."""
