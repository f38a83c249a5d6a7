"""Every kind of KV cache that a user may ask for serves requests, in the memory that it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwartet.engine.engine import BLOCK_SIZE, Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import SettingError
from qwartet.layers.kv_cache import kv_bytes_per_token
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel
from tests.reference.tiny_model import tiny_network, tiny_weights
from tests.tiny_checkpoint import NUM_RANKS, write_tiny_checkpoint

BITS = {"auto": None, "int8": 8, "int4": 4}
PROMPT = torch.randint(NUM_RANKS, (40,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "int4", bits=4)


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> QwenModel:
    return load_model(checkpoint, dtype="bf16", device="cpu", weight_cache=False)


def engine_of(network: QwenModel, kind: str, **settings: int | str) -> Engine:
    return Engine(network, EngineConfig(kv_cache_dtype=kind, max_model_len=64, **{"max_num_seqs": 2} | settings))


def serve(engine: Engine, max_tokens: int = 12) -> Request:
    request = engine.add_request(PROMPT, SamplingParams(max_tokens=max_tokens, temperature=0))
    while engine.has_unfinished:
        engine.step()
        engine.block_manager.check_integrity()
    return request


@pytest.mark.parametrize("kind", BITS)
def test_a_prompt_in_pieces_or_found_again_has_the_answer_of_the_whole(network: QwenModel, kind: str) -> None:
    whole = serve(engine_of(network, kind)).completion_ids
    engine = engine_of(network, kind, max_num_batched_tokens=13)
    in_pieces, found = serve(engine), serve(engine)
    assert in_pieces.completion_ids == found.completion_ids == whole and len(whole) == 12
    assert (in_pieces.num_cached_tokens, found.num_cached_tokens) == (0, 32)


@pytest.mark.parametrize("kind", BITS)
def test_the_cache_takes_the_memory_that_its_kind_says(network: QwenModel, kind: str) -> None:
    cache, config = engine_of(network, kind, num_blocks=9).runner.cache, network.config
    layers = [cache.layers[index] for index in range(config.num_layers)]
    assert {layer.bits for layer in layers} == {BITS[kind]}
    tensors = [(one.keys, one.values, one.key_scales, one.value_scales) for one in layers]
    num_bytes = sum(tensor.nbytes for layer in tensors for tensor in layer if tensor is not None)
    dtype = torch.bfloat16 if kind == "auto" else kind
    of_a_token = kv_bytes_per_token(config.num_layers, config.num_kv_heads, config.head_dim, dtype)
    assert num_bytes == 9 * BLOCK_SIZE * of_a_token


def test_a_smaller_kind_lets_more_blocks_into_the_same_memory(network: QwenModel, monkeypatch) -> None:
    monkeypatch.setattr("qwartet.engine.engine.available_bytes", lambda device: 2**20)
    counts = [engine_of(network, kind, max_num_seqs=10_000).block_manager.num_blocks for kind in BITS]
    assert counts[0] < counts[1] < counts[2] and counts[2] > 3 * counts[0]


@pytest.mark.parametrize("kind", BITS)
def test_children_share_the_codes_of_their_prompt(network: QwenModel, kind: str) -> None:
    engine = engine_of(network, kind)
    children = engine.add_requests(PROMPT, SamplingParams(max_tokens=6, temperature=0, n=3))
    while engine.has_unfinished:
        engine.step()
    assert [one.num_cached_tokens for one in children] == [0, 32, 32]
    assert [one.completion_ids for one in children] == [serve(engine_of(network, kind), 6).completion_ids] * 3


def test_an_unknown_kind_and_heads_that_do_not_suit_are_one_sentence() -> None:
    network = tiny_network(tiny_weights())
    with pytest.raises(SettingError, match="kv_cache_dtype is 'int2'; it must be one of auto, int8, int4"):
        Engine(network, EngineConfig(kv_cache_dtype="int2"))
    with pytest.raises(SettingError, match="needs heads of a multiple of 32 values"):
        Engine(network, EngineConfig(kv_cache_dtype="int4"))
