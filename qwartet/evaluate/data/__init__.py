"""Data of the benchmarks: their files, their archives, and where they come from."""
