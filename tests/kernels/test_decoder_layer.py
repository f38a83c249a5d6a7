"""A block in one native call gives the bits of its operations one by one, and is taken only where it may be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qwartet.kernels.cache_layer import CacheDtype
from qwartet.kernels.select import Kernels, select_kernels
from qwartet.layers.forward_batch import ForwardBatch
from qwartet.layers.fused import FusedLayers
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.linear import Linear, QuantizedLinear
from qwartet.layers.rotary import PositionConfig, RotaryTable
from qwartet.models.config import ModelConfig
from qwartet.models.qwen import DecoderLayer
from tests.kernels.attention_case import is_same
from tests.kernels.random_weights import random_bf16, random_weight

POSITION = PositionConfig(10000.0, 64, 64, 256, use_dynamic_ntk=True, use_logn_attn=True)
LENGTHS = [[(1, 1)], [(40, 40)], [(1, 200), (7, 90), (1, 17)]]
CONFIG = ModelConfig(
    vocab_size=64, hidden_size=256, num_layers=1, num_heads=4, num_kv_heads=4, head_dim=64, intermediate_size=328,
    rms_norm_eps=1e-6, position=POSITION,
)  # fmt: skip


def block(kernels: Kernels, kind: str) -> DecoderLayer:
    """A block of random weights; `kind` says which of its linears are quantised, and how."""
    layer = DecoderLayer(CONFIG, 0, kernels)
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
        weight = random_weight(inputs, outputs, bits=bits, group_size=group_size, act_order=act_order, bias=True)
        setattr(layer.get_submodule(parent), leaf, QuantizedLinear(kernels.prepare(weight), kernels))
    return layer


def batch_of(lengths: list[tuple[int, int]], cache_dtype: CacheDtype = torch.bfloat16) -> tuple[ForwardBatch, KVCache]:
    """(new tokens, keys) of each request, blocks in order; the cache is full of random heads."""
    ends = [keys for _, keys in lengths]
    widest = -(-max(ends) // 16)
    table = torch.arange(len(ends) * widest).view(len(ends), widest)
    positions = torch.cat([torch.arange(keys - new, keys) for new, keys in lengths])
    slots = torch.cat(
        [t[(p := torch.arange(k - n, k)) // 16] * 16 + p % 16 for t, (n, k) in zip(table, lengths, strict=True)]
    )
    batch = ForwardBatch(
        input_ids=positions,
        positions=positions,
        rope_index=positions + POSITION.max_length,
        query_scale=POSITION.query_scales(positions),
        cu_seqlens=torch.tensor([0, *(new for new, _ in lengths)]).cumsum(0),
        seq_lens=torch.tensor(ends),
        block_table=table,
        slot_mapping=slots,
    )
    cache = KVCache(
        num_layers=1, num_blocks=table.numel(), num_kv_heads=4, block_size=16, head_dim=64, dtype=cache_dtype
    )
    heads = random_bf16(2 * table.numel() * 16, 4, 64, seed=90)
    cache.layer(0).store(*heads.chunk(2), torch.arange(table.numel() * 16))
    return batch, cache


def assert_one_call_gives_the_same_bits(
    layer: DecoderLayer, rotary: RotaryTable, lengths: list[tuple[int, int]], cache_dtype: CacheDtype
) -> None:
    batch, cache = batch_of(lengths, cache_dtype)
    _, other_cache = batch_of(lengths, cache_dtype)
    x = random_bf16(len(batch.input_ids), 256, seed=7).float() * 1.001  # no bf16 values
    assert FusedLayers.can_fuse(nn.ModuleList([layer]), layer.kernels)
    fused = FusedLayers(nn.ModuleList([layer]), layer.kernels)(x.clone(), rotary, batch, cache)
    h = x + layer.attention(layer.attention_norm(x), rotary, batch, other_cache)
    composed = h + layer.mlp(layer.mlp_norm(h))
    assert torch.equal(fused, composed)
    assert is_same(cache.layer(0), other_cache.layer(0))


@pytest.mark.parametrize("activations", ["exact", "int8"])
@pytest.mark.parametrize("kind", ["int4", "int8", "dense", "mixed", "act order"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.inference_mode()
def test_one_call_gives_the_bits_of_the_operations_one_by_one(isa, activations, kind, lengths) -> None:
    kernels = select_kernels(torch.device("cpu"), torch.bfloat16, activations=activations, head_dim=64, rotary_dim=64)
    layer, rotary = block(kernels, kind), RotaryTable(POSITION)
    assert_one_call_gives_the_same_bits(layer, rotary, lengths, torch.bfloat16)


@pytest.mark.parametrize("cache_dtype", ["int8", "int4"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.inference_mode()
def test_so_it_does_over_a_cache_of_codes(isa, cache_dtype, lengths) -> None:
    kernels = select_kernels(torch.device("cpu"), torch.bfloat16, head_dim=64, rotary_dim=64)
    assert_one_call_gives_the_same_bits(block(kernels, "int4"), RotaryTable(POSITION), lengths, cache_dtype)


def test_a_hook_an_adapter_a_gradient_or_a_foreign_layer_takes_the_modules_one_by_one(isa) -> None:
    kernels = select_kernels(torch.device("cpu"), torch.bfloat16, head_dim=64, rotary_dim=64)
    layers = nn.ModuleList([block(kernels, "int4"), block(kernels, "mixed")])
    batch, _ = batch_of([(1, 1)])
    fused = FusedLayers(layers, kernels)
    with torch.inference_mode():
        assert fused.is_current() and fused.may_run(batch)
        hook = layers[1].mlp.up.register_forward_hook(lambda *_: None)
        assert not fused.may_run(batch)
        hook.remove()
        assert fused.may_run(batch)
        assert not fused.may_run(ForwardBatch(**{**vars(batch), "adapter_index": torch.zeros(1)}))
    assert not fused.may_run(batch), "gradients are on"
    layers[0].mlp.down = nn.Sequential(Linear(328, 256, kernels=kernels))
    assert not fused.is_current() and not FusedLayers.can_fuse(layers, kernels)


@pytest.mark.parametrize("change", ["replaced module", "replaced parameter", "moved parameter", "moved norm"])
def test_a_change_of_the_weights_is_seen_before_the_next_call(isa, change) -> None:
    kernels = select_kernels(torch.device("cpu"), torch.bfloat16, head_dim=64, rotary_dim=64)
    layers = nn.ModuleList([block(kernels, "dense")])
    fused = FusedLayers(layers, kernels)
    up = layers[0].mlp.up
    if change == "replaced module":
        layers[0].mlp.up = Linear(256, 328, kernels=kernels)
    elif change == "replaced parameter":
        up.weight = nn.Parameter(up.weight.detach().clone(), requires_grad=False)
    elif change == "moved parameter":
        up.weight.data = up.weight.data.clone()
    else:
        layers[0].mlp_norm.weight.data = layers[0].mlp_norm.weight.data.clone()
    assert not fused.is_current()
