"""dense_batch: where each token of a batch without a cache stands."""

from __future__ import annotations

import torch

from qwartet.layers.forward_batch import dense_batch
from qwartet.layers.rotary import PositionConfig

POSITIONS = PositionConfig(
    rope_theta=10000.0, rotary_dim=8, train_length=4, max_length=16, use_dynamic_ntk=True, use_logn_attn=True
)


def test_requests_lie_one_after_another_and_count_from_zero() -> None:
    batch = dense_batch([[5, 6, 7], [8]], POSITIONS)
    assert batch.input_ids.tolist() == [5, 6, 7, 8]
    assert batch.positions.tolist() == [0, 1, 2, 0]
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
    assert from_tensor.input_ids.dtype == torch.int64
    for name, tensor in vars(from_lists).items():
        assert tensor is None or torch.equal(tensor, getattr(from_tensor, name)), name
