"""Complete requests as one batch without a cache: for training, calibration and the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.rotary import PositionConfig


def dense_batch(
    token_ids: Sequence[Sequence[int]] | Tensor,
    position_config: PositionConfig,
    *,
    training: bool = False,
    device: torch.device | str = "cpu",
) -> ForwardBatch:
    """A batch in which every request is complete.

    token_ids: B lists of ids, or a tensor [B, L]. In training NTK and LogN are off, as in the original.
    """
    rows = [torch.as_tensor(row, dtype=torch.int32) for row in token_ids]
    lengths = torch.tensor([len(row) for row in rows])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    slots = torch.tensor([0 if training else position_config.alpha_slot(n) for n in lengths.tolist()])
    rope_index = slots.repeat_interleave(lengths) * position_config.max_length + positions
    query_scale = None if training else position_config.query_scales(positions)
    return ForwardBatch(
        input_ids=torch.cat(rows).to(device),
        rope_index=rope_index.int().to(device),
        query_scale=None if query_scale is None else query_scale.to(device),
        cu_seqlens=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int().to(device),
        seq_lens=lengths.int().to(device),
    )
