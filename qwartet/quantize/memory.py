"""How much memory quantising takes, row by row, before anything is read; it does not depend on the number of blocks.

    weights of a block + the largest step of it + activations of the calibration, of which a batch is worked on

The largest step is the one whose Hessian, and weights while they are solved, take most. The activations are the hidden
states and what a linear waits for (block.py); they may be on the disk instead. While the result is written, memory
holds one shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.writer import DEFAULT_SHARD_BYTES
from qwartet.kernels.select import select_gptq_ops
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of
from qwartet.quantize.block import BATCH_TOKENS, STEPS
from qwartet.quantize.solver import SolverSettings

SOLVED_BYTES = 4 + 1 + 4 + 1  # of a weight: fp32 transposed, its code, dequantised; packed
MATRICES_OF_ORDER = 2  # more, as large as H, while its rows and columns are permuted
# Of a token in a batch, in units of fp32 values of each width: hidden states and norms; queries, keys, values and their
# rotated copies; up, gate and their product, with one more copy while an operation runs.
HIDDEN_VALUES = 5
QKV_VALUES = 4
MLP_VALUES = 4
PACKED_BYTES = 17 << 20  # that the native products keep


@dataclass(frozen=True)
class QuantizeLoad:
    """The calibration of a run."""

    num_tokens: int
    longest: int  # tokens of one example
    is_spilled: bool = False  # activations are on the disk

    @classmethod
    def of_examples(cls, calibration: Sequence[Sequence[int]], is_spilled: bool) -> QuantizeLoad:
        """Of examples of token ids."""
        lengths = [len(example) for example in calibration]
        return cls(sum(lengths), max(lengths, default=0), is_spilled)

    @property
    def batch_tokens(self) -> int:
        """Tokens of the largest batch."""
        return min(self.num_tokens, max(BATCH_TOKENS, self.longest))

    def stored_bytes(self, config: ModelConfig, dtype: torch.dtype) -> int:
        """Activations of the whole calibration: hidden states in fp32, inputs of a linear in `dtype`."""
        widest = max(config.num_heads * config.head_dim, config.intermediate_size)
        return self.num_tokens * (4 * config.hidden_size + dtype.itemsize * widest)


def has_order(settings: SolverSettings) -> bool:
    """Whether inputs are taken in another order, for which the Hessian is copied."""
    return settings.desc_act or settings.act_group_aware


def device_rows(
    config: ModelConfig, load: QuantizeLoad, *, dtype: torch.dtype, device: torch.device, order: bool
) -> Mapping[str, int]:
    """What a block takes on the device that computes, in bytes."""
    layout = layout_of(config)
    weights = sum(math.prod(module.shape) for module in layout.of_layer(0)) * dtype.itemsize
    ops = select_gptq_ops(device)
    hessian, solver = max(
        (_step_bytes(layout, step, ops.factor_copies, order) for step in STEPS), key=lambda sizes: sum(sizes)
    )
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    values = HIDDEN_VALUES * config.hidden_size
    values += max(QKV_VALUES * heads, MLP_VALUES * config.intermediate_size)
    position = config.position
    return {
        "weights of a block": weights,
        "Hessian": hessian,
        "GPTQ solver": solver,
        "activations of a batch": 4 * load.batch_tokens * values + PACKED_BYTES,
        "rotary tables": 2 * 4 * position.num_alphas * position.max_length * (position.rotary_dim // 2),
    }


def host_rows(config: ModelConfig, load: QuantizeLoad, dtype: torch.dtype) -> Mapping[str, int]:
    """What stays in the memory of the host meanwhile, in bytes."""
    return {} if load.is_spilled else {"activations of the calibration": load.stored_bytes(config, dtype)}


def writing_bytes(layout: Layout, result: int) -> int:
    """The memory for the largest shard of a result of so many bytes, with two copies of the largest tensor."""
    largest = max(math.prod(layout[name].shape) for name in ("embedding", "lm_head")) * 2
    return max(min(DEFAULT_SHARD_BYTES, result), largest) + 2 * largest


def _step_bytes(layout: Layout, step: Sequence[str], factor_copies: int, order: bool) -> tuple[int, int]:
    """Of the Hessian of a step, and of what the solver needs besides it."""
    shapes = [layout[f"layers.0.{linear}"].shape for linear in step]
    in_features = shapes[0][1]
    hessian = 4 * in_features**2
    copies = max(factor_copies - 1, 0) + MATRICES_OF_ORDER * order
    return hessian, copies * hessian + SOLVED_BYTES * sum(map(math.prod, shapes))
