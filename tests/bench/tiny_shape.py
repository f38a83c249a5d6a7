"""A published shape in small, and its vocabulary: what the writers of random weights are tested with."""

from __future__ import annotations

from qwartet.models.shapes import Shape
from tests.tiny_checkpoint import NUM_RANKS, VOCAB_SIZE

# Two heads; an MLP that is not a multiple of 256; NTK and LogN as in the sizes up to 14B.
TINY = Shape("tiny", 256, 2, 2, 384, VOCAB_SIZE, 2048, 2048, 10_000, True, 1024, num_ranks=NUM_RANKS)
