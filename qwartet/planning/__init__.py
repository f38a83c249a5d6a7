"""Memory planning before load: how much a model needs at work, on this machine or on GPUs, and the most that fits."""
