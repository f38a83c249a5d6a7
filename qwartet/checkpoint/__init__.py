"""Files on disk: those of a checkpoint, the tensors in them, and the cache of repacked weights."""
