"""The network against the oracle, where no golden reaches: gradients, the cache, several requests, initialisation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.kv_cache import KVCache
from qwartet.models.qwen import QwenModel
from tests.published_names import disk_parameter_name
from tests.reference.naive_model import naive_logits
from tests.reference.tiny_model import CONFIG, tiny_network, tiny_weights

TOLERANCE = 1e-4  # fp32; logits reach 10
WEIGHTS = tiny_weights()
PROMPT = torch.randint(CONFIG["vocab_size"], (60,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def network() -> QwenModel:
    return tiny_network(WEIGHTS)


@pytest.mark.parametrize("length", [1, 2, 23, 24, 25, 48, 49, 60])
def test_logits_are_the_oracles_on_both_sides_of_every_ntk_border(network: QwenModel, length: int) -> None:
    with torch.no_grad():
        logits = network(dense_batch([PROMPT[:length]], network.config.position))
    torch.testing.assert_close(logits, naive_logits(CONFIG, WEIGHTS, PROMPT[:length]), rtol=0, atol=TOLERANCE)


def test_requests_in_one_dense_batch_are_what_each_is_alone(network: QwenModel) -> None:
    rows = [PROMPT[:30], PROMPT[5:6], PROMPT[10:60]]
    with torch.no_grad():
        logits = network(dense_batch(rows, network.config.position))
    expected = torch.cat([naive_logits(CONFIG, WEIGHTS, row) for row in rows])
    torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE)


def test_gradients_are_those_of_the_oracle() -> None:
    off = {"use_dynamic_ntk": False, "use_logn_attn": False}  # the original trains without them
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in WEIGHTS.items()}
    rows = torch.tensor([PROMPT[:20], PROMPT[20:40]])

    def loss_of(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())

    loss_of(torch.stack([naive_logits(CONFIG | off, leaves, row.tolist()) for row in rows])).backward()
    network = tiny_network(WEIGHTS)  # of its own: gradients stay on it
    loss_of(network(dense_batch(rows, network.config.position, training=True)).unflatten(0, (2, 20))).backward()
    for name, parameter in network.named_parameters():
        expected = leaves[disk_parameter_name(name)].grad
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_the_forward_pass_writes_to_none_of_its_inputs(network: QwenModel) -> None:
    batch = dense_batch([PROMPT], network.config.position)
    before = {field.name: getattr(batch, field.name) for field in dataclasses.fields(ForwardBatch)}
    copies = {name: None if tensor is None else tensor.clone() for name, tensor in before.items()}
    parameters = {name: parameter.clone() for name, parameter in network.named_parameters()}
    with torch.no_grad():
        network(batch)
    for name, tensor in copies.items():
        assert tensor is None or torch.equal(tensor, before[name]), name
    assert all(torch.equal(parameter, parameters[name]) for name, parameter in network.named_parameters())


def cached_batch(batch: ForwardBatch, start: int, end: int, num_keys: int, blocks: list[int]) -> ForwardBatch:
    """Tokens start : end of a one-request dense batch, as a chunk over a cache with blocks of 4."""
    index = torch.arange(start, end)
    table = torch.tensor(blocks)
    return dataclasses.replace(
        batch,
        input_ids=batch.input_ids[start:end],
        rope_index=batch.rope_index[start:end],
        query_scale=batch.query_scale[start:end],
        cu_seqlens=torch.tensor([0, end - start]),
        seq_lens=torch.tensor([num_keys]),
        block_table=table[None],
        slot_mapping=table[index // 4] * 4 + index % 4,
    )


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 60])
def test_chunks_over_the_cache_give_the_logits_of_one_dense_pass(network: QwenModel, chunk: int) -> None:
    batch = dense_batch([PROMPT], network.config.position)
    cache = KVCache(num_layers=2, num_blocks=20, num_kv_heads=2, block_size=4, head_dim=16, dtype=torch.float32)
    blocks = torch.randperm(20, generator=torch.Generator().manual_seed(chunk)).tolist()[:15]
    with torch.no_grad():
        dense = network(batch)
        parts = [
            network(cached_batch(batch, start, end, end, blocks), cache)
            for start in range(0, len(PROMPT), chunk)
            for end in [min(start + chunk, len(PROMPT))]
        ]
    torch.testing.assert_close(torch.cat(parts), dense, rtol=0, atol=TOLERANCE)


def test_only_the_logits_that_are_asked_for_are_computed(network: QwenModel) -> None:
    batch = dense_batch([PROMPT], network.config.position)
    with torch.no_grad():
        some = network(dataclasses.replace(batch, logits_index=torch.tensor([3, 59])))
        none = network(dataclasses.replace(batch, logits_index=torch.tensor([], dtype=torch.int64)))
        assert none.shape == (0, CONFIG["vocab_size"])
        torch.testing.assert_close(some, network(batch)[[3, 59]], rtol=0, atol=TOLERANCE)


def test_initialisation_is_the_published_one(network: QwenModel) -> None:
    fresh = QwenModel(network.config)
    fresh.initialize(torch.Generator().manual_seed(0))
    parameters = {name: parameter.detach() for name, parameter in fresh.named_parameters()}
    assert torch.equal(parameters["norm.weight"], torch.ones(32))
    assert torch.equal(parameters["layers.0.attention.qkv.bias"], torch.zeros(96))
    for name in ("embedding.weight", "layers.1.mlp.up.weight"):
        assert parameters[name].std().item() == pytest.approx(0.02, rel=0.1)
    for name in ("layers.0.attention.output.weight", "layers.1.mlp.down.weight"):
        assert parameters[name].std().item() == pytest.approx(0.02 / 2, rel=0.1)  # sqrt(2 * 2 layers)
