"""A schedule becomes tensors: every number of a small batch, checked by hand."""

from __future__ import annotations

import torch

from qwartet.engine.batch import build_forward_batch, step_span
from qwartet.engine.block_manager import BlockTable
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.layers.rotary import PositionConfig

POSITIONS = PositionConfig(
    rope_theta=10000.0, rotary_dim=8, train_length=4, max_length=100, use_dynamic_ntk=True, use_logn_attn=False
)


def build(*items: ScheduledRequest):
    return build_forward_batch(map(step_span, items), 4, POSITIONS, torch.device("cpu"))


def test_a_chunk_and_a_decode_lie_side_by_side() -> None:
    chunk = Request(0, [10, 11, 12, 13, 14, 15, 16], SamplingParams(), table=BlockTable(b"", [5, 2], 3))
    decode = Request(1, [20, 21], SamplingParams(), completion_ids=[22], table=BlockTable(b"", [7], 2))
    batch = build(ScheduledRequest(chunk, 3), ScheduledRequest(decode, 1))
    assert batch.input_ids.tolist() == [13, 14, 15, 22]
    assert batch.rope_index.tolist() == [103, 104, 105, 2]
    assert batch.slot_mapping.tolist() == [5 * 4 + 3, 2 * 4, 2 * 4 + 1, 7 * 4 + 2]
    assert batch.cu_seqlens.tolist() == [0, 3, 4]
    assert batch.seq_lens.tolist() == [6, 3]
    assert batch.block_table.tolist() == [[5, 2], [7, 0]]
    assert batch.logits_index.tolist() == [3], "the chunk does not reach the prompt's end"
    assert batch.query_scale is None


def test_the_first_position_shifts_positions_but_not_slots() -> None:
    padded = Request(0, [10, 11], SamplingParams(), first_position=5, table=BlockTable(b"", [3]))
    batch = build(ScheduledRequest(padded, 2))
    assert batch.slot_mapping.tolist() == [12, 13]
    assert batch.seq_lens.tolist() == [2]
    assert batch.logits_index.tolist() == [1]


def test_a_step_of_chunks_alone_asks_for_no_logits() -> None:
    chunk = Request(0, [1, 2, 3], SamplingParams(), table=BlockTable(b"", [0]))
    batch = build(ScheduledRequest(chunk, 2))
    assert batch.logits_index.shape == (0,) and batch.logits_index.dtype == torch.int32
