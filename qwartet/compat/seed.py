"""set_seed as transformers' trainer_utils has it: one seed for every generator that a script may use."""

from __future__ import annotations

import random

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seeds Python's, numpy's and torch's generators; sampling in compat is seeded from torch's."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
