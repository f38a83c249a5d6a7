"""A module stored in several parts loads as one, from floats and GPTQ; each part is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwartet.checkpoint import weight_cache
from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.errors import CheckpointError
from qwartet.layers.dense_batch import dense_batch
from qwartet.models import families
from qwartet.models.config import ModelConfig
from qwartet.models.load import load_model
from qwartet.models.qwen1 import QWEN1

GPTQ_DIMENSION = {"qweight": 1, "qzeros": 1, "scales": 1, "bias": 0, "weight": 0}


def split_layout(config: ModelConfig) -> Layout:
    """That of Qwen-1, but for qkv in three parts."""
    layout = QWEN1.layout(config)
    return replace(layout, modules=tuple(map(split, layout)))


def split(module: ModuleSpec) -> ModuleSpec:
    if not module.name.endswith("attention.qkv"):
        return module
    part = module.disk_name.removesuffix("c_attn")
    rows = module.shape[0] // 3
    return replace(module, parts=tuple((f"{part}{name}_proj", rows) for name in "qkv"))


@pytest.fixture
def in_parts(checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A copy of a checkpoint with c_attn split into q_proj, k_proj, v_proj, and a family that knows it."""
    monkeypatch.setitem(families.FAMILIES, "qwen", replace(QWEN1, layout=split_layout))

    def make(**settings: int) -> Path:
        directory = checkpoint(**settings)
        tensors = load_file(directory / "model.safetensors")
        for name in [name for name in tensors if ".c_attn." in name]:
            whole, (prefix, leaf) = tensors.pop(name), name.split("c_attn.")
            parts = [whole] * 3 if leaf == "g_idx" else whole.chunk(3, GPTQ_DIMENSION[leaf])
            tensors |= {f"{prefix}{key}_proj.{leaf}": part.clone() for key, part in zip("qkv", parts, strict=True)}
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return directory

    return make


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", [{}, {"bits": 4}, {"bits": 8}], ids=str)
def test_parts_on_disk_are_one_module_of_the_same_bits(
    pristine, in_parts, settings, dtype, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as plain:
        plain.setitem(families.FAMILIES, "qwen", QWEN1)
        expected = logits_of(pristine(**settings), dtype)
    directory = in_parts(**settings)
    for _start in range(2):  # the second one from the weight cache, if there is one
        assert torch.equal(logits_of(directory, dtype), expected)


@torch.inference_mode()
def logits_of(directory: Path, dtype: str) -> torch.Tensor:
    model = load_model(directory, dtype=dtype)
    return model(dense_batch([[1, 2, 3, 300, 5]], model.config.position))


def change(directory: Path, name: str, to: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensor = tensors.pop(name)
    if to is not None:
        tensors[name] = to(tensor).contiguous()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


PART = "transformer.h.1.attn.k_proj"


@pytest.mark.parametrize(
    ("settings", "name", "to", "message"),
    [
        ({}, f"{PART}.weight", None, r"missing tensors: transformer\.h\.1\.attn\.k_proj\.weight"),
        ({}, f"{PART}.weight", lambda tensor: tensor[:-2], r"k_proj\.weight: shape is .* config\.json implies"),
        ({"bits": 4}, f"{PART}.qweight", None, r"missing tensors: transformer\.h\.1\.attn\.k_proj\.qweight"),
        ({"bits": 4}, f"{PART}.qweight", lambda tensor: tensor[:, :-8], "k_proj"),
    ],
)
def test_a_part_that_is_missing_or_of_another_size_is_named(in_parts, settings, name, to, message) -> None:
    directory = in_parts(**settings)
    change(directory, name, to)
    with pytest.raises(CheckpointError, match=message):
        load_model(directory)
