"""Rotary position embedding, with Qwen's two training-free length extensions: dynamic NTK and LogN.

    angle[p, j]  = p * base_a ^ (-2j / d)            j = 0 .. d/2 - 1
    base_a       = base * a ^ (d / (d - 2))          NTK-aware base for alpha a

Dynamic NTK takes one alpha per request, from its prompt length L at prefill and fixed from then on:
a = 2 ^ (ceil(log2(L / train_length)) + 1) - 1, that is 1, 3, 7, 15, ... . LogN scales the queries at
1-based positions p beyond train_length by log(p) / log(train_length).

The cos and sin rows of all alphas are stacked into one table, so that a kernel only sees a row
number (`rope_index`): row = alpha_slot * max_length + position.

Sources: Su et al. 2021 (RoPE); Qwen's modeling_qwen.py for both extensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PositionConfig:
    """How positions enter the attention of one model."""

    rope_theta: float  # base of the angles
    rotary_dim: int  # elements of a head that are rotated
    train_length: int  # tokens; NTK and LogN begin beyond it
    max_length: int  # tokens; the longest request
    use_dynamic_ntk: bool
    use_logn_attn: bool

    def alpha_slot(self, prompt_length: int) -> int:
        """Index of the NTK alpha for a prompt of this many tokens; 0 means alpha 1 (no change)."""
        if not self.use_dynamic_ntk or prompt_length <= self.train_length:
            return 0
        return math.ceil(math.log(prompt_length / self.train_length, 2))

    @property
    def num_alphas(self) -> int:
        return self.alpha_slot(self.max_length) + 1

    def query_scales(self, positions: Tensor) -> Tensor | None:
        """LogN factors [T] fp32 for 0-based positions [T]; None when the model does not use them."""
        if not self.use_logn_attn:
            return None
        one_based = (positions + 1).clamp(min=self.train_length).double()
        return (one_based.log() / math.log(self.train_length)).float()


def ntk_alpha(slot: int) -> int:
    """The alpha of a slot: 1, 3, 7, 15, ..."""
    return (2 << slot) - 1


class RotaryTable(nn.Module):
    """Stacked cos and sin rows, [num_alphas * max_length, rotary_dim / 2] fp32 each."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: PositionConfig, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.max_length = config.max_length
        rows = [self._angles(config, ntk_alpha(slot), device) for slot in range(config.num_alphas)]
        angles = torch.cat(rows)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    @staticmethod
    def _angles(config: PositionConfig, alpha: int, device: torch.device | str | None) -> Tensor:
        dim = config.rotary_dim
        base = config.rope_theta * alpha ** (dim / (dim - 2))
        frequencies = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim))
        return torch.outer(torch.arange(config.max_length, dtype=torch.float32, device=device), frequencies)

    def forward(self, rope_index: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of these rows, each [T, 1, rotary_dim / 2] fp32 (the 1 broadcasts over heads)."""
        return self.cos[rope_index].unsqueeze(1), self.sin[rope_index].unsqueeze(1)
