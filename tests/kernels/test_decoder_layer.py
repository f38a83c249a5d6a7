"""A block in one native call gives the bits of its operations one by one, and is taken only where it may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from qwartet.engine import executors
from qwartet.engine.executors import FusedExecutor
from qwartet.kernels.backend import Backend
from qwartet.kernels.cache_layer import CacheDtype
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.low_rank import LowRank
from qwartet.kernels.select import select_backend
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.linear import Linear, LinearAdapters, QuantizedLinear
from qwartet.layers.rotary import PositionConfig, RotaryTable
from qwartet.models.config import ModelConfig
from qwartet.models.qwen import DecoderLayer, QwenModel
from tests.kernels.attention_case import is_same
from tests.kernels.random_weights import random_bf16, random_low_rank, random_weight

POSITION = PositionConfig(10000.0, 64, 64, 256, use_dynamic_ntk=True, use_logn_attn=True)
LENGTHS = [[(1, 1)], [(40, 40)], [(1, 200), (7, 90), (1, 17)]]
CONFIG = ModelConfig(
    vocab_size=64, hidden_size=256, num_layers=1, num_heads=4, num_kv_heads=4, head_dim=64, intermediate_size=328,
    rms_norm_eps=1e-6, position=POSITION,
)  # fmt: skip


GROUPED = replace(CONFIG, num_heads=8, num_kv_heads=2, qkv_bias=False, qk_norm=True)
"""As in Qwen3: norms of heads, four heads to a group, heads wider than the hidden size, no biases."""
BIASED = replace(CONFIG, num_kv_heads=1, output_bias=True)


def block(backend: Backend, kind: str, config: ModelConfig = CONFIG) -> DecoderLayer:
    """A block of random weights; `kind` says which of its linears are quantised, and how."""
    layer = DecoderLayer(config, 0, backend)
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = random_bf16(*parameter.shape, seed=number) * (0.06 if parameter.ndim == 2 else 1)
        parameter.requires_grad = False
    names = {"dense": (), "mixed": ("attention.qkv", "mlp.up"), "act order": ("attention.output", "mlp.up", "mlp.gate")}
    every = ("attention.qkv", "attention.output", "mlp.up", "mlp.gate", "mlp.down")
    for name in names.get(kind, every):
        parent, _, leaf = name.rpartition(".")
        linear = layer.get_submodule(name)
        bits = 8 if kind == "int8" else 4
        outputs, inputs = linear.weight.shape
        group_size = -1 if inputs % 128 else 128
        act_order = kind == "act order"
        bias = config.qkv_bias
        weight = random_weight(inputs, outputs, bits=bits, group_size=group_size, act_order=act_order, bias=bias)
        setattr(layer.get_submodule(parent), leaf, QuantizedLinear(backend.prepare(weight), backend))
    return layer


def batch_of(
    lengths: list[tuple[int, int]], cache_dtype: CacheDtype = torch.bfloat16, num_kv_heads: int = 4
) -> tuple[ForwardBatch, KVCache]:
    """(new tokens, keys) of each request, blocks in order; the cache is full of random heads."""
    ends = [keys for _, keys in lengths]
    widest = -(-max(ends) // 16)
    table = torch.arange(len(ends) * widest, dtype=torch.int32).view(len(ends), widest)
    positions = torch.cat([torch.arange(keys - new, keys, dtype=torch.int32) for new, keys in lengths])
    slots = torch.cat(
        [t[(p := torch.arange(k - n, k)) // 16] * 16 + p % 16 for t, (n, k) in zip(table, lengths, strict=True)]
    )
    batch = ForwardBatch(
        input_ids=positions % CONFIG.vocab_size,
        rope_index=positions + POSITION.max_length,
        query_scale=POSITION.query_scales(positions),
        cu_seqlens=torch.tensor([0, *(new for new, _ in lengths)]).cumsum(0).int(),
        seq_lens=torch.tensor(ends, dtype=torch.int32),
        block_table=table,
        slot_mapping=slots.int(),
    )
    cache = KVCache(
        num_layers=1, num_blocks=table.numel(), num_kv_heads=num_kv_heads, block_size=16, head_dim=64, dtype=cache_dtype
    )
    heads = random_bf16(2 * table.numel() * 16, num_kv_heads, 64, seed=90)
    cache.layers[0].store(*heads.chunk(2), torch.arange(table.numel() * 16))
    return batch, cache


def native_backend(activations: str = "int8") -> Backend:
    return select_backend(torch.device("cpu"), torch.bfloat16, activations=activations, head_dim=64, rotary_dim=64)


def adapt(layer: DecoderLayer, ranks: tuple[int, ...] = (8, 64, 3)) -> None:
    """Three adapters beside every linear but the output projection; the second leaves `gate` as it is."""
    for number, name in enumerate(("attention.qkv", "mlp.up", "mlp.gate", "mlp.down")):
        linear: Any = layer.get_submodule(name)
        shape = linear.in_features, linear.out_features
        adapters: list[LowRank | None] = [random_low_rank(*shape, rank, seed=number + rank) for rank in ranks]
        if name == "mlp.gate":
            adapters[1] = None
        prepared = linear.backend.prepare_adapters(adapters, torch.bfloat16, torch.device("cpu"))
        linear.adapters = LinearAdapters(prepared)


def assert_one_call_gives_the_same_bits(
    layer: DecoderLayer,
    rotary: RotaryTable,
    lengths: list[tuple[int, int]],
    cache_dtype: CacheDtype,
    index: torch.Tensor | None = None,
    num_kv_heads: int = 4,
) -> None:
    batch, cache = batch_of(lengths, cache_dtype, num_kv_heads)
    batch = replace(batch, adapter_index=index)
    _, other_cache = batch_of(lengths, cache_dtype, num_kv_heads)
    x = random_bf16(len(batch.input_ids), 256, seed=7).float() * 1.001  # no bf16 values
    fused = layer.backend.fuse([executors._weights(layer)], cache.layers)
    assert fused is not None
    found = fused.run(x.clone(), 0, 1, rotary.cos, rotary.sin, batch)
    h = x + layer.attention(layer.attention_norm(x), rotary, batch, other_cache)
    composed = h + layer.mlp(layer.mlp_norm(h), index)
    assert torch.equal(found, composed)
    assert is_same(cache.layers[0], other_cache.layers[0])


@pytest.mark.parametrize("activations", ["exact", "int8"])
@pytest.mark.parametrize("kind", ["int4", "int8", "dense", "mixed", "act order"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.inference_mode()
def test_one_call_gives_the_bits_of_the_operations_one_by_one(isa, activations, kind, lengths) -> None:
    layer, rotary = block(native_backend(activations), kind), RotaryTable(POSITION)
    assert_one_call_gives_the_same_bits(layer, rotary, lengths, torch.bfloat16)


@pytest.mark.parametrize("cache_dtype", ["int8", "int4"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.inference_mode()
def test_so_it_does_over_a_cache_of_codes(isa, cache_dtype, lengths) -> None:
    assert_one_call_gives_the_same_bits(block(native_backend(), "int4"), RotaryTable(POSITION), lengths, cache_dtype)


@pytest.mark.parametrize("config", [GROUPED, BIASED], ids=["grouped, norms of heads", "one kv head, two biases"])
@pytest.mark.parametrize("kind", ["int4", "int8", "dense", "mixed", "act order"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.inference_mode()
def test_so_it_does_for_the_blocks_of_later_families(isa, config, kind, lengths) -> None:
    layer, rotary = block(native_backend(), kind, config), RotaryTable(POSITION)
    kv_heads = config.num_kv_heads
    assert_one_call_gives_the_same_bits(layer, rotary, lengths, torch.bfloat16, num_kv_heads=kv_heads)
    index = torch.arange(sum(new for new, _ in lengths), dtype=torch.int32) % 4 - 1
    adapt(layer)
    assert_one_call_gives_the_same_bits(layer, rotary, lengths, torch.bfloat16, index, kv_heads)


class Spied:
    """An executor of a network with these blocks, and whether a step of it went through the modules."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
        backend = native_backend()
        self.model = QwenModel(replace(CONFIG, num_layers=len(kinds)), RotaryTable(POSITION), backend)
        for number, parameter in enumerate(self.model.parameters()):
            parameter.data, parameter.requires_grad = random_bf16(*parameter.shape, seed=number) * 0.06, False
        self.model.layers = self.layers = nn.ModuleList(block(backend, kind) for kind in kinds)
        self.batch, cache = batch_of([(1, 1)])
        cache.layers *= len(kinds)
        self.executor = FusedExecutor(self.model, cache)
        self.ways: list[str] = []
        blocks, run = self.model.blocks, type(self.executor._fused).run
        monkeypatch.setattr(self.model, "blocks", lambda *args: self.ways.append("eager") or blocks(*args))
        spy = lambda *args: self.ways.append("fused") or run(*args)  # noqa: E731
        monkeypatch.setattr(type(self.executor._fused), "run", spy)

    @torch.inference_mode()
    def way(self, batch: ForwardBatch | None = None) -> str:
        assert self.executor.run(batch or self.batch).isfinite().all()
        return self.ways.pop()


@pytest.mark.parametrize("kind", ["int4", "int8", "dense", "mixed", "act order"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.inference_mode()
def test_so_it_does_with_adapters(isa, kind, lengths) -> None:
    layer, rotary = block(native_backend(), kind), RotaryTable(POSITION)
    index = torch.arange(sum(new for new, _ in lengths), dtype=torch.int32) % 4 - 1
    adapt(layer)
    assert_one_call_gives_the_same_bits(layer, rotary, lengths, torch.bfloat16, index)


def test_a_hook_or_a_foreign_layer_takes_the_modules_one_by_one(isa, monkeypatch) -> None:
    spied = Spied(monkeypatch, "int4", "mixed")
    assert spied.way() == "fused"
    hook = spied.layers[1].mlp.up.register_forward_hook(lambda *_: None)
    assert spied.way() == "eager"
    hook.remove()
    assert spied.way() == "fused"
    plain = spied.layers[0].mlp.down
    spied.layers[0].mlp.down = nn.Sequential(plain)
    assert spied.way() == "eager"
    spied.layers[0].mlp.down = plain
    assert spied.way() == "fused"


@pytest.mark.parametrize("change", ["replaced module", "replaced parameter", "moved parameter", "moved norm"])
def test_a_change_of_the_weights_is_seen_before_the_next_call(isa, change, monkeypatch) -> None:
    spied = Spied(monkeypatch, "dense")
    up = spied.layers[0].mlp.up
    with torch.inference_mode():
        before = spied.executor.run(spied.batch)
    if change == "replaced module":
        spied.layers[0].mlp.up = Linear(256, 328, backend=up.backend)
        spied.layers[0].mlp.up.weight = nn.Parameter(up.weight.detach() * 2, requires_grad=False)
    elif change == "replaced parameter":
        up.weight = nn.Parameter(up.weight.detach() * 2, requires_grad=False)
    elif change == "moved parameter":
        up.weight.data = up.weight.data * 2
    else:
        spied.layers[0].mlp_norm.weight.data = spied.layers[0].mlp_norm.weight.data * 2
    with torch.inference_mode():
        after, eager = spied.executor.run(spied.batch), spied.model.hidden(spied.batch, spied.executor._cache)
    assert spied.ways[:2] == ["fused", "fused"] and torch.equal(after, eager) and not torch.equal(after, before)
