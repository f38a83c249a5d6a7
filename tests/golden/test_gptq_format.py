"""GPTQ checkpoints written by AutoGPTQ 0.7.1: their configs, and the float matrices that they stand for."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from qwartet.errors import CheckpointWarning
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight
from tests.golden_data import golden_json, golden_path, golden_root

SETS = sorted(path.name for path in golden_root().glob("gptq-*") if path.is_dir()) or ["gptq-int4"]
HAND_MADE = "-v2zeros"  # a copy of another set whose zeros are stored as version 2 stores them


def read_linears(directory: Path) -> dict[str, QuantizedWeight]:
    """Every GPTQ linear of a golden set."""
    config = GptqConfig.from_dict(json.loads((directory / "config.json").read_text())["quantization_config"], directory)
    linears = {}
    for file in sorted(directory.glob("model*.safetensors")):
        with safe_open(file, "pt") as tensors:
            names = [key.removesuffix(".qweight") for key in tensors.keys() if key.endswith(".qweight")]  # noqa: SIM118
            for name in names:
                parts = {
                    key: tensors.get_tensor(f"{name}.{key}") for key in ("qweight", "qzeros", "scales", "g_idx", "bias")
                }
                linears[name] = QuantizedWeight.from_tensors(parts, config, name=name, path=file)
    return linears


@pytest.mark.parametrize("name", [name for name in SETS if not name.endswith(HAND_MADE)])
def test_dequantized_weights_are_exactly_those_of_the_original(name: str) -> None:
    directory = golden_path(name)
    linears = read_linears(directory)
    with np.load(golden_path(f"{name}/golden_dequant_layer0.npz")) as golden:
        assert golden.files
        for key in golden.files:
            dense = linears[f"transformer.h.0.{key.removesuffix('.weight')}"].dequantize()
            wanted = torch.from_numpy(golden[key])  # some hold only the first rows
            assert torch.equal(dense[: len(wanted)], wanted), key


@pytest.mark.parametrize("name", [name for name in SETS if name.endswith(HAND_MADE)])
def test_version_2_zeros_under_a_version_1_label_are_read_by_value_with_a_warning(name: str) -> None:
    source = read_linears(golden_path(name.removesuffix(HAND_MADE)))
    with pytest.warns(CheckpointWarning, match="the stored zeros are those of gptq_v2"):
        linears = read_linears(golden_path(name))
    assert linears.keys() == source.keys()
    for linear, weight in linears.items():
        assert torch.equal(weight.dequantize(), source[linear].dequantize()), linear


@pytest.mark.parametrize("name", SETS)
def test_act_order_and_biases_are_as_the_file_has_them(name: str) -> None:
    desc_act = golden_json(f"{name}/config.json")["quantization_config"]["desc_act"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        linears = read_linears(golden_path(name))
    assert {weight.g_idx is not None for weight in linears.values()} == {desc_act}
    assert all(weight.bias is not None for weight in linears.values())


@pytest.mark.parametrize("name", SETS)
def test_both_configs_are_written_back_as_they_were(name: str) -> None:
    inner = golden_json(f"{name}/config.json")["quantization_config"]
    outer = golden_json(f"{name}/quantize_config.json")
    config = GptqConfig.from_dict(inner, "config.json")
    assert config.merge(GptqConfig.from_dict(outer, "quantize_config.json"), "quantize_config.json") == config
    assert json.dumps(config.to_dict()) == json.dumps(outer)
    assert json.dumps(config.to_quantization_config()) == json.dumps(inner)
