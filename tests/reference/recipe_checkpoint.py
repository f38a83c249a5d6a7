"""Builds the checkpoint of the golden set `chat-fullvocab`, whose weights are given by a formula (its recipe.json)."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file


def hashed(name: str, size: int, seed: int) -> np.ndarray:
    """The recipe's hash of the flat indices 0 .. size - 1: uint32 [size]."""
    with np.errstate(over="ignore"):
        x = np.arange(size, dtype=np.uint32) * np.uint32(2654435761)
        x += np.uint32(zlib.crc32(name.encode()) ^ seed)
        x ^= x >> np.uint32(16)
        x *= np.uint32(2246822519)
        x ^= x >> np.uint32(13)
        x *= np.uint32(3266489917)
        x ^= x >> np.uint32(16)
    return x


def tensor_of(name: str, shape: list[int], recipe: dict[str, Any]) -> torch.Tensor:
    """One tensor of the recipe, bf16 (exact)."""
    x = hashed(name, int(np.prod(shape)), recipe["seed"])
    if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
        values = ((x >> np.uint32(26)).astype(np.float32) + 96) / 128
    else:
        exponent = next(e for suffix, e in recipe["e"].items() if name.endswith(suffix))
        values = (2 * (x >> np.uint32(24)).astype(np.float32) - 255) * 2.0**-exponent
    tensor = torch.from_numpy(values.astype(np.float32)).reshape(shape)
    if name == "lm_head.weight":
        rows = torch.arange(shape[0])
        im_end = 151645
        tensor[~((rows < 151643) & (rows % 97 == 0) | (rows == im_end))] = 0
        tensor[im_end] *= 2
    return tensor.to(torch.bfloat16)


def write_recipe_checkpoint(golden: Path, vocabulary: Path, target: Path) -> Path:
    """A complete checkpoint directory: recipe weights, the golden configs, the real vocabulary."""
    recipe = json.loads((golden / "recipe.json").read_text())
    tensors = {}
    for name, check in recipe["checks"].items():
        tensor = tensor_of(name, check["shape"], recipe)
        assert tensor.flatten()[:8].float().tolist() == check["first8"], name
        assert abs(float(tensor.double().sum()) - check["sum"]) < 1e-3, name
        tensors[name] = tensor
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json"):
        shutil.copy(golden / name, target / name)
    shutil.copy(vocabulary, target / "qwen.tiktoken")
    return target
