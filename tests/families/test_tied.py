"""Tied embeddings as files have them: only the embedding, only the head, both alike, and two that differ."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwartet.checkpoint import tied_head, weight_cache
from qwartet.checkpoint.held_tensors import held_tensors
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import layout_of, load_config
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import choose_settings, load_model
from qwartet.planning.decode_speed import read_bytes
from qwartet.planning.memory_plan import network_memory
from tests.families.stock import CASES, TOLERANCE, VOCAB_SIZE, edit_config, prompt, stock_logits, transformers
from tests.models.broken import edit_tensors

TIED = [case for case in CASES if "tied" in case]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = prompt(40)


@torch.inference_mode()
def logits(directory: Path, dtype: str = "fp32", **settings: bool) -> Tensor:
    network = load_model(directory, dtype=dtype, **settings)
    return network(dense_batch([IDS], network.config.position)).float()


def edit(directory: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    edit_tensors(directory / "model.safetensors", change)
    return directory


def check_as_transformers(directory: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    torch.testing.assert_close(logits(directory), stock_logits(model, IDS), rtol=0, atol=TOLERANCE)


@pytest.fixture(params=TIED)
def tied(request: pytest.FixtureRequest, copied) -> Path:
    return copied(request.param)


def test_embedding_and_head_are_one_tensor_in_memory(tied: Path) -> None:
    assert HEAD not in Checkpoint(tied)
    network = load_model(tied, dtype="fp32")
    assert network.lm_head.weight is network.embedding.weight
    assert load_model(tied, dtype="bf16").lm_head.weight.dtype == torch.bfloat16


def test_both_alike_are_one_tensor_and_nothing_is_told(tied: Path) -> None:
    edit(tied, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = load_model(tied, dtype="fp32")
    assert network.lm_head.weight is network.embedding.weight
    check_as_transformers(tied)


@pytest.mark.parametrize("row", [0, VOCAB_SIZE - 1])
def test_two_that_differ_anywhere_are_both_used_as_in_transformers_with_a_warning(
    tied: Path, row: int, monkeypatch
) -> None:
    monkeypatch.setattr(tied_head, "SLICE_ROWS", 7)

    def differ(tensors: dict[str, Tensor]) -> None:
        tensors[HEAD] = tensors[EMBEDDING].clone()
        tensors[HEAD][row, 3] += 1

    edit(tied, differ)
    with pytest.warns(CheckpointWarning, match=r"lm_head.weight differs from the embedding; both are used"):
        check_as_transformers(tied)
    found = inspect_checkpoint(tied)
    assert not found.problems and any("differs from the embedding" in text for text in found.warnings)


def test_a_file_with_the_head_alone_gives_both(tied: Path) -> None:
    expected = logits(tied)
    edit(tied, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}))
    assert torch.equal(logits(tied), expected)
    check_as_transformers(tied)


def test_a_file_with_neither_lacks_the_embedding(tied: Path) -> None:
    edit(tied, lambda tensors: tensors.pop(EMBEDDING))
    with pytest.raises(CheckpointError, match=r"missing tensors: model\.embed_tokens\.weight; config"):
        load_model(tied)


def test_an_untied_config_needs_the_head(tied: Path) -> None:
    edit_config(tied, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing tensors: lm_head\.weight; .* set tie_word_embeddings to true"):
        load_model(tied)


@pytest.mark.parametrize("shape", [(-1,), (1, VOCAB_SIZE, -1)])
def test_two_of_another_shape_are_refused(tied: Path, shape: tuple[int, ...]) -> None:
    def reshape(tensors: dict[str, Tensor]) -> None:
        tensors[EMBEDDING] = tensors[EMBEDDING].reshape(shape)
        tensors[HEAD] = tensors[EMBEDDING].clone()

    edit(tied, reshape)
    with (
        pytest.warns(CheckpointWarning, match="differs"),
        pytest.raises(CheckpointError, match=r"config\.json implies"),
    ):
        load_model(tied)


def test_a_head_of_another_shape_is_refused(tied: Path) -> None:
    edit(tied, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING][:9].clone()}))
    with pytest.warns(CheckpointWarning, match="differs"), pytest.raises(CheckpointError, match=r"shape is \[9, 128\]"):
        load_model(tied)


def test_memory_counts_the_shared_tensor_once_and_decoding_reads_all_of_it(tied: Path) -> None:
    checkpoint, config = Checkpoint(tied), load_config(tied)
    settings = choose_settings(checkpoint, config, None, dtype="bf16", head="exact")
    memory = network_memory(checkpoint, config, settings)
    assert memory.weights["head"] == 0 and memory.weights["embedding"] == 2 * VOCAB_SIZE * config.hidden_size
    held = sum(parameter.nbytes for parameter in load_model(tied, dtype="bf16").parameters())
    assert memory.weights_bytes == held
    assert read_bytes(memory, "bf16", 0) == held  # the embedding, too, since it is the head


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_8_bit_head_and_the_weight_cache_work_with_them(tied: Path, dtype: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    plain = load_model(tied, dtype=dtype, weight_cache=False)
    for _start in range(2):  # the second one maps the cache
        network = load_model(tied, dtype=dtype, head="int8")
        assert network.lm_head.weight is network.embedding.weight
        assert torch.equal(network.embedding.weight, plain.embedding.weight)
        if network.backend.layout is not None:
            assert network.lm_head.prepared is not None
        x = plain.embedding.weight[:5]
        with torch.inference_mode():
            assert network.lm_head.argmax(x, VOCAB_SIZE) == plain.lm_head.argmax(x, VOCAB_SIZE)


def test_the_names_of_a_tied_layout_have_no_head_of_their_own(tied: Path) -> None:
    layout = layout_of(load_config(tied))
    assert layout.is_tied and layout["lm_head"].disk_name == "model.embed_tokens"
    checkpoint = Checkpoint(tied)
    settings = choose_settings(checkpoint, load_config(tied), None, dtype="fp32")
    assert not any(tensor.module == "lm_head" for tensor in held_tensors(checkpoint, layout, settings))
    assert "lm_head" not in json.dumps(inspect_checkpoint(tied).tensors)
