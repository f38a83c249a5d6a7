"""LoRA adapters of one linear, as kernels see them: y += scale * B A x (Hu et al. 2021).

A batch may mix adapters: `RowAdapters` says which one each row uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """What one adapter adds to one linear."""

    a: Tensor  # [r, K]
    b: Tensor  # [N, r]
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


class PreparedAdapters(Protocol):
    """All adapters of one linear in the layout of the backend that made it."""

    @property
    def tensors(self) -> Sequence[Tensor]: ...
    def low_rank(self, number: int) -> LowRank | None:
        """One adapter; None where it leaves the linear as it is."""
        ...


@dataclass(frozen=True)
class RowAdapters:
    """The adapters of a linear, and which of them each row uses."""

    adapters: PreparedAdapters
    index: Tensor  # [M] int32; -1: none


class ReferenceAdapters:
    """Adapters in the dtype of the activations."""

    def __init__(self, adapters: Sequence[LowRank | None], dtype: torch.dtype, device: torch.device) -> None:
        self._adapters = [
            None if one is None else LowRank(one.a.to(device, dtype), one.b.to(device, dtype), one.scale)
            for one in adapters
        ]

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for one in self._adapters if one is not None for tensor in (one.a, one.b)]

    def low_rank(self, number: int) -> LowRank | None:
        return self._adapters[number]
