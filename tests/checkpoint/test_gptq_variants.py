"""GPTQ files as other quantisers write them: asymmetric ones that do not state a version, wider scales and biases."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwartet.checkpoint import weight_cache
from qwartet.checkpoint.zero_version import code_offsets
from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.kernels.cpu.weights import PackedWeight
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.linear import QuantizedLinear
from qwartet.llm import LLM
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from qwartet.quant_format.packing import pack_qzeros, unpack_qzeros
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.quantizer import fit_group, quantize
from tests.models.broken import edit_json, edit_tensors, refused
from tests.tiny_checkpoint import Copy

FILE = "model.safetensors"
WIDER = [torch.bfloat16, torch.float32]


def logits(directory: Path, dtype: str = "fp32", **settings) -> Tensor:
    model = load_model(directory, dtype=dtype, **settings)
    with torch.no_grad():
        return model(dense_batch([[1, 2, 3, 300, 5]], model.config.position))


def edit_configs(directory: Path, *, remove: tuple[str, ...] = (), **changes: object) -> None:
    """Changes config.json and quantize_config.json alike."""
    edit_json(directory / "quantize_config.json", changes, remove=remove)
    embedded = json.loads((directory / "config.json").read_text(encoding="utf-8"))["quantization_config"] | changes
    embedded = {key: value for key, value in embedded.items() if key not in remove}
    edit_json(directory / "config.json", {"quantization_config": embedded})


def edit_leaf(directory: Path, leaf: str, change) -> None:
    """Applies a function to all tensors of a leaf."""

    def edit(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: change(t.clone()) for name, t in tensors.items() if name.endswith(f".{leaf}")})

    edit_tensors(directory / FILE, edit)


def shift_zeros(directory: Path, by: int, bits: int = 4) -> None:
    """Moves every zero, as it is stored."""
    edit_leaf(directory, "qzeros", lambda t: pack_qzeros(unpack_qzeros(t, bits, "v2") + by, bits, "v2"))


# Which version wrote the zeros


def asymmetric(weight: Tensor, bits: int, group_size: int, zero_format: str) -> QuantizedWeight:
    """Columns [K, N] rounded to nearest, with zeros stored by one version and taken as if by v2."""
    codes, scales, zeros = [], [], []
    for columns in weight.split(group_size):
        scale, zero = fit_group(columns, bits=bits, sym=False)
        codes.append(quantize(columns, scale, zero, bits=bits).to(torch.uint8))
        scales.append(scale)
        zeros.append(zero.to(torch.uint8))
    packed = QuantizedWeight.from_codes(
        torch.cat(codes), torch.stack(scales), torch.stack(zeros), bits=bits, group_size=group_size, sym=False
    )
    stored = pack_qzeros(torch.stack(zeros), bits, zero_format)  # type: ignore[arg-type]
    return QuantizedWeight(bits, group_size, packed.qweight, packed.scales, stored, zero_format="v2", sym=False)


@pytest.mark.parametrize(("bits", "tolerance"), [(4, 0.05), (8, 0.4)])
@pytest.mark.parametrize(("zero_format", "offset"), [("v1", 1.0), ("v2", 0.0)])
def test_codes_lie_about_their_zero_on_average(bits: int, tolerance: float, zero_format: str, offset: float) -> None:
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    offsets = code_offsets(asymmetric(weight, bits, 128, zero_format))
    assert abs(float(offsets.mean()) - offset) < tolerance


def test_groups_whose_zero_is_at_an_end_say_nothing() -> None:
    weight = torch.rand(256, 64, generator=torch.Generator().manual_seed(0))  # all zeros are 0, stored as 15 by v1
    assert len(code_offsets(asymmetric(weight, 4, 128, "v1"))) == 0


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_zeros_that_lie_where_the_codes_do_decide_and_this_is_told(checkpoint: Copy, version: str) -> None:
    directory = checkpoint(bits=4)
    expected = logits(directory)
    edit_configs(directory, sym=False)
    shift_zeros(directory, int(version == "gptq_v2"))
    with pytest.warns(CheckpointWarning, match=f"the stored zeros are those of {version}, .* and read as such"):
        assert torch.equal(logits(directory), expected)
    found = inspect_checkpoint(directory)
    assert found.quantization is not None and not found.problems
    assert found.quantization["zero_format"] == ["v1" if version == "gptq" else "v2"]


@pytest.mark.parametrize("by", [-5, -1, 2, 5])
def test_zeros_that_do_not_decide_are_asked_about_and_the_answer_is_taken(checkpoint: Copy, by: int) -> None:
    directory = checkpoint(bits=4)
    edit_configs(directory, sym=False, checkpoint_format="gptq")
    shift_zeros(directory, by)
    expected = logits(directory)
    edit_configs(directory, remove=("checkpoint_format",))
    words = "sym is false, checkpoint_format is not stated, and the stored zeros do not decide it"
    refused(directory, None, words, "--checkpoint-format gptq", 'add "checkpoint_format" to quantize_config.json')
    assert any(words in problem for problem in inspect_checkpoint(directory).problems)
    assert torch.equal(logits(directory, checkpoint_format="gptq"), expected)
    assert not torch.equal(logits(directory, checkpoint_format="gptq_v2"), expected)
    llm = LLM(directory, device="cpu", dtype="fp32", checkpoint_format="gptq")
    assert torch.equal(llm.logits([1, 2, 3, 300, 5]), expected)


def test_the_two_versions_get_caches_of_their_own(checkpoint: Copy, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    directory = checkpoint(bits=4)
    edit_configs(directory, sym=False)
    answers = [logits(directory, "bf16", checkpoint_format=one) for one in ("gptq", "gptq_v2", "gptq")]
    assert torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], answers[1])


def test_a_version_that_there_is_not_is_refused(checkpoint: Copy) -> None:
    with pytest.raises(SettingError, match="checkpoint_format is 'v1'; it must be one of gptq, gptq_v2"):
        load_model(checkpoint(bits=4), checkpoint_format="v1")


def test_a_version_for_a_model_that_is_not_quantised_is_refused(pristine) -> None:
    with pytest.raises(SettingError, match=r"checkpoint_format is 'gptq', but .* is not GPTQ; leave it out"):
        load_model(pristine(), checkpoint_format="gptq")
    with pytest.raises(SettingError, match="is not GPTQ"):  # the version is the model's, and not its draft's
        LLM(pristine(), device="cpu", draft_model=pristine(bits=4), checkpoint_format="gptq")
    assert LLM(pristine(bits=4), device="cpu", draft_model=pristine(), checkpoint_format="gptq")


# Scales and biases in other floats


@pytest.mark.parametrize("leaf", ["scales", "bias"])
@pytest.mark.parametrize("wider", WIDER)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("bits", [4, 8])
def test_wider_floats_of_the_same_value_give_the_same_bits(
    checkpoint: Copy, leaf: str, wider: torch.dtype, dtype: str, bits: int
) -> None:
    directory = checkpoint(bits=bits)
    edit_leaf(directory, leaf, lambda tensor: tensor.to(wider).half())
    expected = logits(directory, dtype)
    edit_leaf(directory, leaf, lambda tensor: tensor.to(wider))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(logits(directory, dtype), expected)
    assert not inspect_checkpoint(directory).problems


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_scales_that_fp16_does_not_hold_are_rounded_to_it_and_this_is_told(checkpoint: Copy, dtype: str) -> None:
    directory = checkpoint(bits=4)
    edit_leaf(directory, "scales", lambda tensor: tensor.float() * 1.0002)
    with pytest.warns(CheckpointWarning, match="scales are float32, and not all are exact in fp16; each is rounded"):
        found = logits(directory, dtype)
    edit_leaf(directory, "scales", Tensor.half)
    assert torch.equal(found, logits(directory, dtype))


def test_scales_beyond_fp16_are_refused(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)
    edit_leaf(directory, "scales", lambda tensor: tensor.float() * 1e9)
    with pytest.raises(CheckpointError, match=r"scales: reach [\d.e+]+; the largest fp16 number is 65504"):
        load_model(directory)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_bias_is_taken_in_its_own_precision(checkpoint: Copy, dtype: str) -> None:
    directory = checkpoint(bits=4)
    values = torch.linspace(-1e5, 1e5, 128)  # few of them are exact in fp16, and the ends are not
    edit_leaf(directory, "bias", lambda tensor: values.clone() if len(tensor) == 128 else tensor)
    linear = load_model(directory, dtype=dtype).get_submodule("layers.1.mlp.gate")
    assert isinstance(linear, QuantizedLinear)
    weight = linear.prepared
    assert isinstance(weight, QuantizedWeight | PackedWeight) and weight.bias is not None
    assert torch.equal(weight.bias[:128], values)
