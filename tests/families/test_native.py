"""The native step of Qwen2 and Qwen3: all blocks in one call give the bits of the modules, near the fp32 logits."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwartet import LLM, SamplingParams
from qwartet.engine.executors import EagerExecutor, FusedExecutor
from qwartet.kernels.cpu import library as native
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.kv_cache import BLOCK_SIZE, KVCache
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel
from tests.families.stock import CASES, prompt

STEPS = [(40, 0), (7, 40), (1, 47), (1, 48)]  # new tokens, tokens before
LENGTH = 49


@pytest.fixture(params=native.supported_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes `select_backend` choose one instruction set; skips where that library was not built."""
    monkeypatch.setenv(native.ISA_VARIABLE, request.param)
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))
    return request.param


def new_cache(network: QwenModel) -> KVCache:
    config = network.config
    return KVCache(
        num_layers=config.num_layers, num_blocks=8, num_kv_heads=config.num_kv_heads, block_size=BLOCK_SIZE,
        head_dim=config.head_dim, dtype=torch.bfloat16,
    )  # fmt: skip


def batches() -> list[ForwardBatch]:
    """A prompt in chunks and two decoded tokens, over the blocks 2, 5, 0, 7."""
    table = torch.tensor([[2, 5, 0, 7]], dtype=torch.int32)
    found = []
    for new, before in STEPS:
        places = torch.arange(before, before + new, dtype=torch.int32)
        slots = table[0, places // BLOCK_SIZE] * BLOCK_SIZE + places % BLOCK_SIZE
        ids = torch.tensor(prompt(LENGTH)[before : before + new], dtype=torch.int32)
        bounds, lengths = torch.tensor([0, new]).int(), torch.tensor([before + new]).int()
        found.append(ForwardBatch(ids, places, None, bounds, lengths, table, slots.int()))
    return found


@torch.inference_mode()
def hidden(executor: EagerExecutor | FusedExecutor) -> Tensor:
    return torch.cat([executor.run(batch) for batch in batches()])


@pytest.mark.parametrize("activations", ["exact", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_one_call_of_all_blocks_gives_the_bits_of_the_modules(stock, isa: str, case: str, activations: str) -> None:
    network = load_model(stock(case)[1], dtype="bf16", activations=activations)
    fused = FusedExecutor(network, new_cache(network))
    assert fused._fused is not None, "the backend fuses these blocks"
    found = hidden(fused)
    assert torch.equal(found, hidden(EagerExecutor(network, new_cache(network))))
    with torch.inference_mode():
        logits = network.lm_head(found).float()
        exact = load_model(stock(case)[1], dtype="fp32")(dense_batch([prompt(LENGTH)], network.config.position))
    assert float((logits - exact).norm() / exact.norm()) < 0.05  # bf16 weights and activations


@pytest.mark.parametrize("case", ["qwen2 of 7 heads to a group", "qwen3 tied"])
def test_the_engine_answers_alike_alone_and_in_a_batch(stock, isa: str, case: str) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    prompts = [list(prompt(length, seed=length)) for length in (3, 70, 33)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no tokenizer
        with LLM(stock(case)[1], dtype="bf16", max_num_batched_tokens=32) as llm:
            together = [one.token_ids for one in llm.generate(prompts, params)]
        for ids, expected in zip(prompts, together, strict=True):
            with LLM(stock(case)[1], dtype="bf16") as llm:
                assert llm.generate(ids, params)[0].token_ids == expected


def test_a_norm_of_heads_that_moves_or_is_replaced_is_seen(stock) -> None:
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))
    network = load_model(Path(stock("qwen3")[1]), dtype="bf16")
    fused = FusedExecutor(network, new_cache(network))
    before = hidden(fused)
    weight = network.layers[1].attention.k_norm.weight
    weight.data = weight.data * 2
    after = hidden(fused)
    assert not torch.equal(before, after)
    assert torch.equal(after, hidden(EagerExecutor(network, new_cache(network))))
