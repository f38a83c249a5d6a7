"""Requests and positions (integers) -> a ForwardBatch (tensors)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from qwartet.engine.request import Request
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.rotary import PositionConfig


@dataclass(frozen=True)
class Span:
    """Ids start : end of a request, drafts counted after its tokens, and the ones whose logits are needed."""

    request: Request
    start: int
    end: int
    logits: tuple[range, ...]  # positions, in ascending order


def step_span(item: ScheduledRequest) -> Span:
    """What a step computes of a request, drafts included."""
    request = item.request
    end = request.num_computed_tokens + item.num_scheduled_tokens
    num_drafts = max(item.num_sampled_rows - 1, 0)
    sampled = range(end - 1, end - 1 + item.num_sampled_rows)
    return Span(request, request.num_computed_tokens, end + num_drafts, (item.predicted_prompt, sampled))


def build_forward_batch(
    spans: Iterable[Span], block_size: int, position_config: PositionConfig, device: torch.device
) -> ForwardBatch:
    """The tensors of one forward pass."""
    input_ids: list[int] = []
    positions: list[int] = []
    rope_index: list[int] = []
    slot_mapping: list[int] = []
    logits_index: list[int] = []
    cu_seqlens, seq_lens, tables = [0], [], []
    for span in spans:
        request, start, end = span.request, span.start, span.end
        logits_index += [len(input_ids) + place - start for places in span.logits for place in places]
        input_ids += request.token_ids(start, end)
        places = range(request.first_position + start, request.first_position + end)
        positions += places
        row = position_config.alpha_slot(request.num_prompt_tokens) * position_config.max_length
        rope_index += [row + place for place in places]
        slot_mapping += [
            request.block_table[index // block_size] * block_size + index % block_size for index in range(start, end)
        ]
        cu_seqlens.append(len(input_ids))
        seq_lens.append(end)
        tables.append(request.block_table)
    width = max(map(len, tables))
    adapters: list[int] = []
    if any(span.request.adapter >= 0 for span in spans):
        adapters = [span.request.adapter for span in spans for _ in range(span.start, span.end)]

    def tensor(values: list[int] | list[list[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return ForwardBatch(
        input_ids=tensor(input_ids),
        rope_index=tensor(rope_index),
        query_scale=position_config.query_scales(tensor(positions)),
        cu_seqlens=tensor(cu_seqlens),
        seq_lens=tensor(seq_lens),
        block_table=tensor([table + [0] * (width - len(table)) for table in tables]),
        slot_mapping=tensor(slot_mapping),
        adapter_index=tensor(adapters) if adapters else None,
        logits_index=None if len(logits_index) == len(input_ids) else tensor(logits_index),
    )
