"""Every kind of KV cache that a user may ask for serves requests, in the memory that it says."""

from __future__ import annotations

import pytest
import torch

from qwartet.engine.engine import Engine
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import SettingError
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel
from tests.reference.tiny_model import tiny_network, tiny_weights
from tests.tiny_checkpoint import NUM_RANKS, write_tiny_checkpoint


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> QwenModel:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "int4", bits=4)
    return load_model(directory, dtype="bf16", device="cpu", weight_cache=False)


def answer(network: QwenModel, kind: str, max_num_batched_tokens: int) -> list[int]:
    engine = Engine(
        network, kv_cache_dtype=kind, max_model_len=64, max_num_seqs=2, max_num_batched_tokens=max_num_batched_tokens
    )
    ids = torch.randint(NUM_RANKS, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    request = engine.add_request(ids, SamplingParams(max_tokens=12, temperature=0))
    while engine.has_unfinished:
        engine.step()
    assert engine.runner.cache.layer(0).bits == {"auto": None, "int8": 8, "int4": 4}[kind]
    return request.completion_ids


@pytest.mark.parametrize("kind", ["auto", "int8", "int4"])
def test_a_prompt_in_pieces_has_the_answer_of_the_whole(network: QwenModel, kind: str) -> None:
    whole = answer(network, kind, 2048)
    assert len(whole) == 12 and whole == answer(network, kind, 16)


def test_an_unknown_kind_and_heads_that_do_not_suit_are_one_sentence() -> None:
    network = tiny_network(tiny_weights())
    with pytest.raises(SettingError, match="kv_cache_dtype is 'int2'; it must be one of auto, int8, int4"):
        Engine(network, kv_cache_dtype="int2")
    with pytest.raises(SettingError, match="takes heads of a multiple of 32 values"):
        Engine(network, kv_cache_dtype="int4")
