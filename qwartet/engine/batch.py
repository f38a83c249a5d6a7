"""A Schedule (integers) -> a ForwardBatch (tensors)."""

from __future__ import annotations

import torch

from qwartet.engine.scheduler import Schedule
from qwartet.layers.forward_batch import ForwardBatch
from qwartet.layers.rotary import PositionConfig


def build_forward_batch(
    schedule: Schedule, block_size: int, position_config: PositionConfig, device: torch.device
) -> ForwardBatch:
    """The tensors of one step; logits are asked for the last token of every request that is fully computed by it."""
    input_ids: list[int] = []
    positions: list[int] = []
    rope_index: list[int] = []
    slot_mapping: list[int] = []
    logits_index: list[int] = []
    cu_seqlens, seq_lens = [0], []
    for item in schedule.scheduled:
        request = item.request
        start = request.num_computed_tokens
        end = start + item.num_scheduled_tokens
        input_ids += request.token_ids(start, end)
        places = range(request.first_position + start, request.first_position + end)
        positions += places
        row = request.alpha_slot * position_config.max_length
        rope_index += [row + place for place in places]
        slot_mapping += [
            request.block_table[index // block_size] * block_size + index % block_size for index in range(start, end)
        ]
        cu_seqlens.append(len(input_ids))
        seq_lens.append(end)
        if item.needs_logits:
            logits_index.append(len(input_ids) - 1)
    width = max(len(item.request.block_table) for item in schedule.scheduled)
    tables = [item.request.block_table + [0] * (width - len(item.request.block_table)) for item in schedule.scheduled]

    def tensor(values: list[int] | list[list[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    position_tensor = tensor(positions)
    return ForwardBatch(
        input_ids=tensor(input_ids),
        positions=position_tensor,
        rope_index=tensor(rope_index),
        query_scale=position_config.query_scales(position_tensor),
        cu_seqlens=tensor(cu_seqlens),
        seq_lens=tensor(seq_lens),
        block_table=tensor(tables),
        slot_mapping=tensor(slot_mapping),
        logits_index=None if len(logits_index) == len(input_ids) else tensor(logits_index),
    )
