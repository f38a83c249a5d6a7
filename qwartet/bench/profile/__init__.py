"""The model card's table of speed and memory, measured: each row in a process of its own."""
