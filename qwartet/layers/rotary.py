"""Rotary position embedding, with the length extensions of Qwen: dynamic NTK and LogN of the first generation, YaRN.

    angle[p, j]  = p * base_a ^ (-2j / d)            j = 0 .. d/2 - 1
    base_a       = base * a ^ (d / (d - 2))          NTK-aware base for alpha a

Dynamic NTK takes one alpha per request, from its prompt length L at prefill and fixed from then on:
a = 2 ^ (ceil(log2(L / train_length)) + 1) - 1, that is 1, 3, 7, 15, ... . LogN scales the queries at
1-based positions p beyond train_length by log(p) / log(train_length).

The cos and sin rows of all alphas are stacked into one table, so that a kernel only sees a row
number (`rope_index`): row = alpha_slot * max_length + position.

YaRN divides the frequencies that turn less than beta_slow times over train_length by `factor`, leaves those that turn
more than beta_fast times, blends those in between, and multiplies cos and sin by `attention_factor`. It is the same at
every length.

Sources: Su et al. 2021 (RoPE); Qwen's modeling_qwen.py for NTK and LogN; Peng et al. 2023 (YaRN), as transformers
computes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class YarnConfig:
    """YaRN's settings, as in rope_scaling."""

    factor: float  # by which the context grows
    attention_factor: float  # of cos and sin
    beta_fast: float = 32.0  # turns over train_length
    beta_slow: float = 1.0
    truncate: bool = True  # blends between whole numbers of frequencies


@dataclass(frozen=True)
class PositionConfig:
    """How positions enter the attention of one model."""

    rope_theta: float  # base of the angles
    rotary_dim: int  # elements of a head that are rotated
    train_length: int  # tokens; NTK and LogN begin beyond it, and YaRN extends it
    max_length: int  # tokens; the longest request
    use_dynamic_ntk: bool
    use_logn_attn: bool
    yarn: YarnConfig | None = None

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


def _yarn_frequencies(config: PositionConfig, yarn: YarnConfig, periods: Tensor) -> Tensor:
    """YaRN's frequencies [rotary_dim / 2] from the inverses of the usual ones."""

    def index_of(turns: float) -> float:
        """The frequency, counted from the fastest, that turns so often over train_length."""
        ratio = math.log(config.train_length / (turns * 2 * math.pi)) / math.log(config.rope_theta)
        return config.rotary_dim * ratio / 2

    first, last = index_of(yarn.beta_fast), index_of(yarn.beta_slow)
    if yarn.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.rotary_dim - 1)
    places = torch.arange(len(periods), dtype=torch.float32, device=periods.device)
    blend = ((places - first) / (last - first if last != first else 0.001)).clamp(0, 1)
    kept = 1 - blend
    return 1.0 / (yarn.factor * periods) * (1 - kept) + 1.0 / periods * kept


class RotaryTable(nn.Module):
    """Stacked cos and sin rows, [num_alphas * max_length, rotary_dim / 2] fp32 each."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: PositionConfig, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.max_length = config.max_length
        rows = [self._angles(config, ntk_alpha(slot), device) for slot in range(config.num_alphas)]
        angles = torch.cat(rows)
        cos, sin = angles.cos(), angles.sin()
        if config.yarn is not None:
            cos, sin = cos * config.yarn.attention_factor, sin * config.yarn.attention_factor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @staticmethod
    def _angles(config: PositionConfig, alpha: int, device: torch.device | str | None) -> Tensor:
        dim = config.rotary_dim
        base = config.rope_theta * alpha ** (dim / (dim - 2))
        periods = base ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
        frequencies = 1.0 / periods if config.yarn is None else _yarn_frequencies(config, config.yarn, periods)
        return torch.outer(torch.arange(config.max_length, dtype=torch.float32, device=device), frequencies)

    def forward(self, rope_index: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of these rows, each [T, 1, rotary_dim / 2] fp32 (the 1 broadcasts over heads)."""
        return self.cos[rope_index].unsqueeze(1), self.sin[rope_index].unsqueeze(1)
