"""What lies on disk: the files of a checkpoint, the tensors in them, and packed weights kept for the next start."""
