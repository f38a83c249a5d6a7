"""ForwardBatch: everything that one forward pass needs to know about its tokens.

The new tokens of all requests are concatenated (no padding); `cu_seqlens` says where each request
begins. Chunked prefill, decode, padding of a batch, NTK and LogN only change the numbers in these tensors,
so the network and its kernels have no special cases. The engine builds it; the network only reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ForwardBatch:
    """T new tokens of B requests. Index tensors are int32, as kernels need them."""

    input_ids: Tensor  # [T]
    rope_index: Tensor  # [T] row of the stacked cos/sin table
    query_scale: Tensor | None  # [T] fp32 LogN factors; None: all 1
    cu_seqlens: Tensor  # [B + 1] first new token of each request, and T
    seq_lens: Tensor  # [B] keys that each request's last new token attends to
    block_table: Tensor | None = None  # [B, max_blocks] blocks of each request; None without a cache
    slot_mapping: Tensor | None = None  # [T] where the new keys and values go; None without a cache
    adapter_index: Tensor | None = None  # [T] LoRA adapter of each token; None: no adapters
    logits_index: Tensor | None = None  # [R] tokens whose logits are needed; None: all

    def on(self, device: torch.device) -> ForwardBatch:
        """The same batch on a device."""
        if self.input_ids.device == device:
            return self
        moved: dict[str, Any] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            moved[field.name] = None if tensor is None else tensor.to(device)
        return ForwardBatch(**moved)

    def copy_into(self, buffers: ForwardBatch) -> None:
        """Copies every tensor to the start of its counterpart in `buffers`, whose addresses a captured graph reads.

        `buffers` has tensors at least as large, and None exactly where this has it. The rest is left unchanged.
        """
        for field in fields(self):
            source, target = getattr(self, field.name), getattr(buffers, field.name)
            assert (source is None) == (target is None), f"{field.name} is in only one of the two"
            if source is not None:
                target[tuple(slice(size) for size in source.shape)].copy_(source)
