"""The norms of single heads that Qwen3 puts between projection and rotation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class HeadNorms:
    """An RMSNorm for every query head, and one for every key head."""

    query: Tensor  # [D], its weight
    key: Tensor  # [D]
    eps: float
