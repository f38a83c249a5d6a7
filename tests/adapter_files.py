"""Writes LoRA adapters as PEFT saves them, with random values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from qwartet.checkpoint.layout import Layout
from qwartet.models.families import layout_of, load_config

ALL_LINEARS = ("c_attn", "c_proj", "w1", "w2")


def base_layout(base: Path) -> Layout:
    """The layout of a checkpoint directory."""
    return layout_of(load_config(base))


def write_adapter(
    directory: Path,
    base: Path,
    *,
    rank: int = 4,
    alpha: float = 8,
    targets: Sequence[str] = ALL_LINEARS,
    seed: int = 0,
    std: float = 0.08,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Path:
    """An adapter of the checkpoint in `base`; `settings` are further keys of its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "base_model_name_or_path": str(base), "r": rank, "lora_alpha": alpha, "bias": "none",
        "target_modules": list(targets), "task_type": "CAUSAL_LM", "fan_in_fan_out": False,
    }  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for spec in base_layout(base):
        if spec.kind == "linear" and spec.disk_name.rpartition(".")[2] in targets:
            rows, columns = spec.shape
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                value = torch.randn(shape, generator=generator) * std
                tensors[f"base_model.model.{spec.disk_name}.lora_{side}.weight"] = value.to(dtype)
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory
