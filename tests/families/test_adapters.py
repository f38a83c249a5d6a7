"""LoRA adapters beside the linears of later families: those of whole linears are served, parts of qkv are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qwartet.checkpoint.adapter import read_adapter
from qwartet.errors import CheckpointError
from qwartet.models.families import layout_of, load_config


def write_adapter(directory: Path, linear: str, shape: tuple[int, int]) -> Path:
    """An adapter of rank 2 beside one linear of every layer, in PEFT's format."""
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [linear], "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    rows, columns = shape
    place = "self_attn" if linear in ("q_proj", "v_proj", "o_proj") else "mlp"
    tensors = {
        f"base_model.model.model.layers.{layer}.{place}.{linear}.lora_{side}.weight": torch.ones(size)
        for layer in range(3)
        for side, size in (("A", (2, columns)), ("B", (rows, 2)))
    }
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def test_a_linear_stored_in_one_part_takes_an_adapter(stock, tmp_path: Path) -> None:
    layout = layout_of(load_config(stock("qwen3")[1]))
    adapter = read_adapter(write_adapter(tmp_path / "o", "o_proj", (128, 256)), layout)
    assert set(adapter.linears) == {f"layers.{layer}.attention.output" for layer in range(3)}


@pytest.mark.parametrize("linear", ["q_proj", "v_proj"])
def test_a_part_of_a_fused_linear_is_refused_with_a_way_out(stock, tmp_path: Path, linear: str) -> None:
    layout = layout_of(load_config(stock("qwen3")[1]))
    directory = write_adapter(tmp_path / "a", linear, (256 if linear == "q_proj" else 128, 128))
    with pytest.raises(CheckpointError, match=r"adapts queries, keys or values alone.*merge it into its base model"):
        read_adapter(directory, layout)
