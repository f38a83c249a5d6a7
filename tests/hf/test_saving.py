"""save_pretrained: what comes back is what went in, for transformers, for LLM and under the published names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwartet import LLM
from tests.golden_data import golden_path
from tests.hf.loaded import FLOAT_SETS, QUANTISED_SETS, load, loaded, transformers

SETS = FLOAT_SETS + QUANTISED_SETS
IDS = [1, 2, 3, 4, 5]
pytestmark = pytest.mark.filterwarnings("ignore::qwartet.errors.CheckpointWarning")


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    files = sorted(directory.glob("model*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def logits(directory: Path) -> torch.Tensor:
    with LLM(directory, dtype="fp32", device="cpu") as llm:
        return llm.logits(IDS)


@pytest.mark.parametrize("name", SETS)
def test_a_saved_model_is_the_checkpoint_again(name: str, tmp_path: Path) -> None:
    dtype = "float16" if name.startswith("gptq") else "bfloat16"  # that of the file
    load(name, dtype=dtype).save_pretrained(tmp_path)
    saved, published = tensors_in(tmp_path), tensors_in(golden_path(name))
    assert saved.keys() == published.keys()
    assert all(saved[key].dtype == tensor.dtype and saved[key].equal(tensor) for key, tensor in published.items())
    assert logits(tmp_path).equal(logits(golden_path(name)))
    with torch.no_grad():
        again = load(tmp_path, dtype="float32")(torch.tensor([IDS]))
    assert (again.logits[0] - logits(tmp_path)).abs().max() <= 1e-5
    before, after = (json.loads((place / "config.json").read_text()) for place in (golden_path(name), tmp_path))
    passed_over = ("auto_map", "transformers_version", "torch_dtype")
    assert {key: after.get(key) for key in before if key not in passed_over} == {
        key: value for key, value in before.items() if key not in passed_over
    }
    assert "auto_map" not in after, "no code is saved that it could name"
    generation = [json.loads((place / "generation_config.json").read_text()) for place in (golden_path(name), tmp_path)]
    assert all(generation[1].get(key) == value for key, value in generation[0].items() if key[:5] != "trans")


def test_a_quantised_model_comes_with_its_quantize_config(tmp_path: Path) -> None:
    load("gptq-int4").save_pretrained(tmp_path)
    told = json.loads((tmp_path / "quantize_config.json").read_text())
    assert told == json.loads((golden_path("gptq-int4") / "quantize_config.json").read_text())


@pytest.mark.parametrize("name", ["tiny-72b", "gptq-int4"])
def test_a_model_may_be_saved_over_the_files_that_it_is_mapped_from(name: str, tmp_path: Path) -> None:
    load(name).save_pretrained(tmp_path)
    expected = logits(tmp_path)
    model = load(tmp_path)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "model.safetensors.index.json").exists()
    assert logits(tmp_path).equal(expected)
    model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]
    assert logits(tmp_path).equal(expected)


def test_a_save_that_fails_leaves_the_directory_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("tiny-72b")
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(os, "replace", lambda *args: pytest.fail("nothing may be moved"))

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_training_changed_is_saved(tmp_path: Path) -> None:
    model = load("tiny-72b", dtype="float32")
    with torch.no_grad():
        model.transformer.h[1].mlp.w2.weight += 0.01
    model.save_pretrained(tmp_path)
    assert tensors_in(tmp_path)["transformer.h.1.mlp.w2.weight"].equal(model.transformer.h[1].mlp.w2.weight)
    with torch.no_grad():
        assert (logits(tmp_path) - model(torch.tensor([IDS])).logits[0]).abs().max() <= 1e-5


def test_a_state_dict_has_the_published_names_and_loads_again() -> None:
    for name in ("tiny-72b", "gptq-int4"):
        state = loaded(name).state_dict()
        assert state.keys() == tensors_in(golden_path(name)).keys()
        model = transformers.AutoModelForCausalLM.from_config(loaded(name).config)
        model.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
        model.to(torch.float32)
        with torch.no_grad():
            assert (model(torch.tensor([IDS])).logits - loaded(name)(torch.tensor([IDS])).logits).abs().max() <= 1e-5
