"""A checkpoint becomes a ModelConfig and a network."""
