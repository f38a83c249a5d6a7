"""Where each token of a batch without a cache stands, and how a batch gets into buffers that stay where they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.rotary import PositionConfig

POSITIONS = PositionConfig(
    rope_theta=10000.0, rotary_dim=8, train_length=4, max_length=16, use_dynamic_ntk=True, use_logn_attn=True
)


def test_requests_lie_one_after_another_and_count_from_zero() -> None:
    batch = dense_batch([[5, 6, 7], [8]], POSITIONS)
    assert batch.input_ids.tolist() == [5, 6, 7, 8]
    assert batch.cu_seqlens.tolist() == [0, 3, 4]
    assert batch.seq_lens.tolist() == [3, 1]


def test_each_request_takes_the_table_of_its_own_length() -> None:
    batch = dense_batch([[1] * 3, [1] * 5, [1] * 9], POSITIONS)
    assert batch.rope_index.tolist() == [*range(3), *range(16, 21), *range(32, 41)]


def test_in_training_there_is_neither_ntk_nor_logn() -> None:
    batch = dense_batch([[1] * 9], POSITIONS, training=True)
    assert batch.rope_index.tolist() == list(range(9))
    assert batch.query_scale is None


def test_a_tensor_of_rows_is_a_batch_of_equal_lengths() -> None:
    from_tensor = dense_batch(torch.tensor([[1, 2], [3, 4]], dtype=torch.int32), POSITIONS)
    from_lists = dense_batch([[1, 2], [3, 4]], POSITIONS)
    assert from_tensor.input_ids.dtype == torch.int32
    for name, tensor in vars(from_lists).items():
        assert tensor is None or torch.equal(tensor, getattr(from_tensor, name)), name


def test_a_batch_is_copied_to_the_beginning_of_larger_buffers_and_nothing_else_is_touched() -> None:
    batch = replace(dense_batch([[5, 6, 7], [8]], POSITIONS), block_table=torch.tensor([[3, 4], [9, 0]]).int())
    larger = {name: torch.full([9] * old.ndim, -1, dtype=old.dtype) for name, old in tensors(batch).items()}
    buffers = replace(batch, **larger)
    batch.copy_into(buffers)
    for name, tensor in tensors(batch).items():
        buffer = tensors(buffers)[name]
        part = tuple(slice(size) for size in tensor.shape)
        assert torch.equal(buffer[part], tensor), name
        assert buffer.numel() - int((buffer == -1).sum()) == tensor.numel(), name
    with pytest.raises(AssertionError, match="block_table is in only one of the two"):
        batch.copy_into(replace(buffers, block_table=None))


def tensors(batch: ForwardBatch) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in vars(batch).items() if tensor is not None}
