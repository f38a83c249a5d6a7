"""Random GPTQ weights of any shape for kernel tests."""

from __future__ import annotations

import torch

from qwartet.kernels.low_rank import LowRank
from qwartet.quant_format.weight import QuantizedWeight


def random_weight(
    num_inputs: int,
    num_outputs: int,
    *,
    bits: int = 4,
    group_size: int = 128,
    act_order: bool = False,
    sym: bool = True,
    bias: bool = False,
    seed: int = 0,
) -> QuantizedWeight:
    """A weight whose rows have a norm of about 1; group_size -1 is one group."""
    generator = torch.Generator().manual_seed(seed)
    group_size = num_inputs if group_size == -1 else min(group_size, num_inputs)
    num_groups = -(-num_inputs // group_size)
    shape = (num_groups, num_outputs)
    if sym:
        zeros = torch.full(shape, 2 ** (bits - 1), dtype=torch.uint8)
    else:
        zeros = torch.randint(2**bits, shape, generator=generator).to(torch.uint8)
    g_idx = None
    if act_order:
        g_idx = (torch.arange(num_inputs) // group_size)[torch.randperm(num_inputs, generator=generator)].int()
    weight = QuantizedWeight.from_codes(
        torch.randint(2**bits, (num_inputs, num_outputs), generator=generator).to(torch.uint8),
        (0.5 + torch.rand(shape, generator=generator)) * 4 / 2**bits / num_inputs**0.5,
        zeros,
        bits=bits,
        group_size=group_size,
        sym=sym,
        g_idx=g_idx,
    )
    if not bias:
        return weight
    return QuantizedWeight(**(vars(weight) | {"bias": torch.randn(num_outputs, generator=generator).half()}))


def random_bf16(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal values in bf16."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def random_low_rank(num_inputs: int, num_outputs: int, rank: int, *, seed: int = 0, scale: float = 0.75) -> LowRank:
    """What an adapter adds to a linear, about as large as the linear's own output."""
    a = random_bf16(rank, num_inputs, seed=seed) / num_inputs**0.5
    b = random_bf16(num_outputs, rank, seed=seed + 1) / rank**0.5
    return LowRank(a, b, scale)
