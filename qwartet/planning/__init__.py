"""Memory before load: what a model will take at work, on this machine or on GPUs, and the most that fits."""
