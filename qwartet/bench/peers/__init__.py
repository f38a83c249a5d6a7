"""Other engines for comparison: on the same machine, with the same shape, alternating with ours."""
