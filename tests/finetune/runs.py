"""Small runs for the tests of this folder; without the extra 'finetune' their modules are skipped."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("peft", reason="peft is not installed (the extra 'finetune')")
pytest.importorskip("transformers", minversion="5.3", reason="transformers is not installed (the extra 'finetune')")

from qwartet.finetune.reports import Summary
from qwartet.finetune.run import Request, finetune
from qwartet.finetune.settings import settings_for

gc.freeze()  # accelerate collects garbage in every run, which takes long over all the modules that are imported

WEATHER = ("the weather is", "hello you", "系统 天气 你好", "the answer to the question of the user", "and")


def turn(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


def conversations(count: int = 11) -> list[dict[str, Any]]:
    """Conversations of different lengths, with ids."""
    return [
        {
            "id": f"c{number}",
            "conversations": [
                turn("user", f"hello {number}"),
                turn("assistant", f"{WEATHER[number % 5]} {number * 7 % 13}"),
            ],
        }
        for number in range(count)
    ]


def write_data(file: Path, content: Any = None) -> Path:
    file.write_text(json.dumps(conversations() if content is None else content), encoding="utf-8")
    return file


def run(base: Path, output: Path, data: Path, method: Any = "lora", **given: Any) -> Summary:
    """A run of six steps in two epochs in fp32, with a checkpoint after every second step."""
    flags = {name: given.pop(name) for name in ("resume", "overwrite", "eval_data") if name in given}
    on_progress = given.pop("on_progress", None)
    usual = {
        "learning_rate": 1e-2, "num_train_epochs": 2, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "save_steps": 2, "model_max_length": 64, "lora_r": 4, "dtype": "fp32",
    }  # fmt: skip
    settings = settings_for(method, **(usual | given))
    return finetune(Request(str(base), data, output, settings, device="cpu", **flags), on_progress)


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    files: Sequence[Path] = sorted(directory.glob("*model*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys() and first
    assert [name for name in first if not first[name].equal(second[name])] == []
