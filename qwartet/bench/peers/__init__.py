"""Other engines on the same machine, the same shape and in turn with ours: what a speed is compared with."""
