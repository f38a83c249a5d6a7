"""What this machine is, and how fast it runs: benchmarks and `doctor`."""
