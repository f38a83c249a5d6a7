"""Padded rows [B, L], as transformers has them -> the batches that the network takes.

A token is at the column where it is in its row, padding included, as in the original; so left padding shifts the
positions of a row, and nothing else. Two forms:

    packed    padding is left out: attention without a cache, or over the paged cache
    padded    every column is computed, and attention has a mask: over any other cache of transformers
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.errors import RequestError
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.reference.rotary import rotated_heads
from qwartet.layers.rotary import PositionConfig, RotaryTable

NTK_SLOTS = "qwartet_ntk_slots"  # attribute of a cache: the NTK alpha that the keys of each row were rotated with


@dataclass(frozen=True)
class Rows:
    """New tokens in L columns of B rows, after `past` columns that a cache holds."""

    is_token: Tensor  # bool [B, past + L]: what is not padding
    past: int

    @classmethod
    def of(cls, batch_size: int, num_new: int, past: int, mask: Tensor | None, limit: int) -> Rows:
        """From an attention_mask [B, past + L], or None without padding; RequestError for another one.

        `limit` is the longest row that the model supports.
        """
        total = past + num_new
        if total > limit:
            raise RequestError(f"{total} tokens are more than the model's context of {limit}; shorten the prompt")
        if mask is None:
            return cls(torch.ones(batch_size, total, dtype=torch.bool), past)
        if mask.shape != (batch_size, total):
            wanted = f"it must be {[batch_size, total]}, with one column for each cached and new token"
            raise RequestError(f"attention_mask is {list(mask.shape)}; {wanted}", param="attention_mask")
        return cls(mask.bool().cpu(), past)

    @property
    def new(self) -> Tensor:
        """What is not padding among the new columns, bool [B, L]."""
        return self.is_token[:, self.past :]

    @property
    def columns(self) -> Tensor:
        """Column of each new token, int64 [B, L]."""
        batch_size, total = self.is_token.shape
        return torch.arange(self.past, total).expand(batch_size, -1)

    def with_trailing_padding(self) -> Rows:
        """The same with padding behind the last token counted as tokens: nothing attends to it, so nothing changes.

        Without a cache only. It gives that padding logits, as the original does.
        """
        after = self.is_token.flip(1).cumsum(1).flip(1)
        return replace(self, is_token=self.is_token | (after == 0))

    def ntk_slots(self, position: PositionConfig, is_training: bool) -> Tensor:
        """The slot of each row's NTK alpha, int64 [B]: from its tokens so far; 0 in training."""
        lengths = self.is_token.sum(1).tolist()
        return torch.tensor([0 if is_training else position.alpha_slot(length) for length in lengths])


def kept_columns(num_new: int, logits_to_keep: int | Tensor) -> Tensor:
    """The new columns whose logits are wanted: the last ones, those of a tensor, or for 0 all; in ascending order."""
    if isinstance(logits_to_keep, Tensor):
        kept: Tensor = torch.arange(num_new)[logits_to_keep.cpu()].unique()
        return kept
    return torch.arange(max(num_new - logits_to_keep, 0) if logits_to_keep else 0, num_new)


def packed_batch(
    input_ids: Tensor, rows: Rows, slots: Tensor, position: PositionConfig, kept: Tensor, *, uses_logn: bool
) -> ForwardBatch:
    """The tokens of input_ids [B, L] without padding, and the logits of `kept` columns; no cache."""
    new, columns = rows.new, rows.columns
    counts = new.sum(1)
    positions = columns[new]
    lengths = counts[counts > 0]
    rope_index = (slots[:, None] * position.max_length + columns)[new]
    is_kept = torch.zeros(new.shape[1], dtype=torch.bool).index_fill_(0, kept, True)
    wanted = is_kept.expand_as(new)[new]
    device = input_ids.device
    return ForwardBatch(
        input_ids=input_ids[new.to(device)].int(),
        rope_index=rope_index.int().to(device),
        query_scale=_to(position.query_scales(positions) if uses_logn else None, device),
        cu_seqlens=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int().to(device),
        seq_lens=lengths.int().to(device),
        logits_index=None if bool(wanted.all()) else wanted.nonzero().flatten().to(device),
    )


def unpacked(values: Tensor, is_token: Tensor) -> Tensor:
    """Values [R, V] of the tokens in columns [B, K] -> [B, K, V], with zeros for padding."""
    shape = (*is_token.shape, values.shape[-1])
    if bool(is_token.all()):
        return values.reshape(shape)
    return values.new_zeros(shape).masked_scatter(is_token.to(values.device).unsqueeze(-1), values)


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


@dataclass(frozen=True)
class PaddedBatch:
    """Every column of B rows, padding included, with a cache of transformers: the reference for the paged cache.

    It attends itself (network.py); differentiable if the cache concatenates, as DynamicCache does.
    """

    input_ids: Tensor  # [B L]
    rope_index: Tensor  # [B L]
    query_scale: Tensor | None  # [B L]
    mask: Tensor  # bool [B, 1, L, past + L]
    columns: Tensor  # int64 [L]
    cache: Any
    logits_index: Tensor | None
    adapter_index: ClassVar[None] = None  # adapters are PEFT's here

    @classmethod
    def of(
        cls, input_ids: Tensor, rows: Rows, position: PositionConfig, kept: Tensor, cache: Any, *, is_training: bool
    ) -> PaddedBatch:
        """From ids [B, L] and the cache that they continue."""
        batch_size, num_new = input_ids.shape
        slots = getattr(cache, NTK_SLOTS, None)
        if slots is None or rows.past == 0:
            slots = rows.ntk_slots(position, is_training)
            setattr(cache, NTK_SLOTS, slots)
        columns, device = rows.columns, input_ids.device
        keys = torch.arange(rows.past + num_new)
        queries = columns[0][:, None]
        seen = (keys <= queries) & rows.is_token[:, None]  # [B, L, past + L]
        seen |= keys == queries  # padding sees itself: a softmax over nothing is NaN
        index = (torch.arange(batch_size)[:, None] * num_new + kept).flatten()
        return cls(
            input_ids=input_ids.flatten(),
            rope_index=(slots[:, None] * position.max_length + columns).flatten().int().to(device),
            query_scale=_to(None if is_training else position.query_scales(columns.flatten()), device),
            mask=seen[:, None].to(device),
            columns=columns[0].to(device),
            cache=cache,
            logits_index=None if len(kept) == num_new else index.to(device),
        )

    def on(self, device: torch.device) -> PaddedBatch:
        """The same batch on a device; the cache places its layers itself."""
        if self.mask.device == device:
            return self
        names = ("input_ids", "rope_index", "query_scale", "mask", "columns", "logits_index")
        moved: dict[str, Any] = {name: _to(getattr(self, name), device) for name in names}
        return replace(self, **moved)

    def attend(self, layer: int, num_heads: int, head_dim: int, qkv: Tensor, rotary: RotaryTable) -> Tensor:
        """qkv [B L, 3 H D] of one layer -> the heads' output [B L, H D], over the cache and the new tokens."""
        cos, sin = rotary(self.rope_index)
        new = rotated_heads(qkv, num_heads, head_dim, cos, sin, self.query_scale)
        query, key, value = (x.unflatten(0, (len(self.mask), -1)).transpose(1, 2) for x in new)  # [B, H, L, D]
        keys, values = self.cache.update(key, value, layer, {"cache_position": self.columns})
        mask = self.mask
        if (surplus := keys.shape[2] - mask.shape[3]) > 0:  # a static cache
            mask = F.pad(mask, (0, surplus), value=False)
        out = F.scaled_dot_product_attention(query, keys.to(query.dtype), values.to(query.dtype), attn_mask=mask)
        return out.transpose(1, 2).flatten(0, 1).flatten(1)
