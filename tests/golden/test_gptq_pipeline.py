"""The whole quantisation against AutoGPTQ 0.7.1: same parent, same calibration, same quality, same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwartet.checkpoint.shards import Checkpoint
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import load_model
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import unpack_qweight
from qwartet.quantize.calibration import load_calibration
from qwartet.quantize.pipeline import quantize_checkpoint
from tests.golden_data import golden_json, golden_path, golden_root

# A set without goldens of its own was made from another one by hand.
SETS = sorted(path.parent.name for path in golden_root().glob("gptq-*/golden.safetensors")) or ["gptq-int4"]
PARENT = "tiny-72b-base-sharded"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_parent(directory: Path, biases: dict[str, torch.Tensor]) -> Path:
    """The float parent of a set: the stored one, but for biases that only the set itself still has."""
    stored = golden_path(PARENT)
    source = Checkpoint(stored)
    tensors = {name: source.read(name) for name in source}
    if all(name in tensors or not bias.any() for name, bias in biases.items()):
        return stored
    directory.mkdir()
    shutil.copy(stored / "config.json", directory)
    save_file({**tensors, **biases}, directory / "model.safetensors", {"format": "pt"})
    return directory


class Quantised:
    """One set: what the original made of the parent, and what we make of it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.stored = golden_path(name)
        self.facts = golden_json("gptq_facts.json")[name]
        self.tensors = load_file(self.stored / "model.safetensors")
        biases = {key: tensor for key, tensor in self.tensors.items() if key.endswith(".bias")}
        self.parent = write_parent(directory / "parent", biases)
        settings = golden_json(f"{name}/quantize_config.json")
        ids = golden_path("gptq_calibration_ids.safetensors")
        calibration = load_calibration(ids, self.parent, num_samples=2**31, max_len=2**31)
        self.ours = directory / "ours"
        quantize_checkpoint(self.parent, self.ours, GptqConfig.from_dict(settings, name), calibration)

    def mean_kl(self) -> float:
        """Mean of KL(parent || ours) over the positions of the golden prompt."""
        prompt = load_file(self.stored / "golden.safetensors")["prompt_ids"].tolist()
        p, q = (prompt_log_probs(directory, prompt) for directory in (self.parent, self.ours))
        return (p.exp() * (p - q)).sum(-1).mean().item()


def prompt_log_probs(directory: Path, prompt: list[int]) -> torch.Tensor:
    model = load_model(directory, dtype="fp32")
    with torch.no_grad():
        return model(dense_batch([prompt], model.config.position)).log_softmax(-1)


@pytest.fixture(scope="module", params=SETS)
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    return Quantised(request.param, tmp_path_factory.mktemp(request.param))


def test_the_codes_of_the_first_linear_are_the_originals(quantised: Quantised) -> None:
    ours = load_file(quantised.ours / "model.safetensors")
    bits = quantised.facts["bits"]
    mine, stored = (unpack_qweight(t["transformer.h.0.attn.c_attn.qweight"], bits) for t in (ours, quantised.tensors))
    # The original ran in fp16, this in fp32: its own fp32 run agrees to 99.9 %.
    assert (mine == stored).float().mean() >= 0.995


def test_the_distance_to_the_parent_is_the_originals_within_a_tenth(quantised: Quantised) -> None:
    assert quantised.mean_kl() == pytest.approx(quantised.facts["mean_kl_parent_vs_quantised"], rel=0.1)


def test_the_distance_to_the_parent_is_clearly_below_that_of_plain_rounding(quantised: Quantised) -> None:
    assert quantised.mean_kl() < 0.9 * quantised.facts["mean_kl_parent_vs_plain_RTN"]


def test_the_stored_distance_is_that_of_the_golden_prompt(quantised: Quantised) -> None:
    golden = load_file(quantised.stored / "golden.safetensors")
    p = prompt_log_probs(quantised.parent, golden["prompt_ids"].tolist())
    kl = (p.exp() * (p - golden["logits"].log_softmax(-1))).sum(-1).mean().item()
    assert kl == pytest.approx(quantised.facts["mean_kl_parent_vs_quantised"], rel=1e-2)


def test_the_tensor_file_has_the_very_header_of_the_original(quantised: Quantised) -> None:
    assert read_header(quantised.ours) == read_header(quantised.stored)


def read_header(directory: Path) -> bytes:
    with (directory / "model.safetensors").open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def test_tensors_that_are_not_quantised_are_the_originals(quantised: Quantised) -> None:
    ours = load_file(quantised.ours / "model.safetensors")
    solved = (".qweight", ".scales", ".g_idx")
    kept = [name for name in quantised.tensors if not name.endswith(solved)]
    assert kept
    assert all(torch.equal(ours[name], quantised.tensors[name]) for name in kept)


def test_the_configs_say_what_the_originals_say(quantised: Quantised) -> None:
    assert (quantised.ours / "quantize_config.json").read_text() == (
        quantised.stored / "quantize_config.json"
    ).read_text()
    parent, ours, stored = (
        json.loads((directory / "config.json").read_text())
        for directory in (quantised.parent, quantised.ours, quantised.stored)
    )
    assert json.dumps(ours["quantization_config"]) == json.dumps(stored["quantization_config"])
    assert {key: ours[key] for key in ("bf16", "fp16", "fp32", "torch_dtype")} == {
        key: stored[key] for key in ("bf16", "fp16", "fp32", "torch_dtype")
    }
    assert list(ours) == sorted(parent.keys() | stored.keys())
