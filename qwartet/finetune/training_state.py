"""What a checkpoint holds beside the weights, so that a resumed run is the same run: safetensors and JSON, no pickle.

optimizer.safetensors    the optimizer's tensors, named KEY/NAME by its parameters
optimizer.json           its other values and its groups
schedule.json            the learning rate schedule; scaler.json the loss scale of fp16
random-0.safetensors     the random states of each process: Python, numpy, torch on the CPU and on GPUs
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.writer import save_tensors, write_json
from qwartet.errors import CheckpointError

OPTIMIZER, SCHEDULE, SCALER, TRAINER = "optimizer", "schedule.json", "scaler.json", "trainer_state.json"
_INCOMPLETE = "resume from another checkpoint"


def save_optimizer(directory: Path, state: Mapping[str, Any]) -> None:
    """Writes an optimizer's state dict, keyed by numbers or names; CheckpointError where the disk refuses."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for key, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{key}/{name}"] = value.detach().cpu().contiguous()
            else:
                values.setdefault(str(key), {})[name] = value
    save_tensors(directory / f"{OPTIMIZER}.safetensors", tensors, {"format": "pt"})
    groups = [{name: _plain(value) for name, value in group.items()} for group in state["param_groups"]]
    write_json(directory / f"{OPTIMIZER}.json", {"values": values, "param_groups": groups})


def load_optimizer(directory: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state dict that save_optimizer wrote; keys that are numbers are numbers again."""
    content = read_json(directory / f"{OPTIMIZER}.json")
    state: dict[int | str, dict[str, Any]] = {}
    for name, tensor in read_tensors(directory / f"{OPTIMIZER}.safetensors", device).items():
        key, _, leaf = name.rpartition("/")
        state.setdefault(_number(key), {})[leaf] = tensor
    for key, values in content["values"].items():
        state.setdefault(_number(key), {}).update(values)
    groups = [{name: _from_plain(value) for name, value in group.items()} for group in content["param_groups"]]
    return {"state": state, "param_groups": groups}


def save_schedule(directory: Path, state: Mapping[str, Any], name: str = SCHEDULE) -> None:
    """Writes the state of a learning rate schedule, or of a loss scaler."""
    write_json(directory / name, {key: _plain(value) for key, value in state.items()})


def load_schedule(directory: Path, name: str = SCHEDULE) -> dict[str, Any]:
    """The state that save_schedule wrote."""
    return {key: _from_plain(value) for key, value in read_json(directory / name).items()}


def save_random_states(directory: Path, rank: int) -> None:
    """Writes the random states of this process."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    rest = {"python": [version, gauss], "numpy": [str(kind), int(position), int(has_gauss), float(cached)]}
    save_tensors(directory / f"random-{rank}.safetensors", tensors, {"rest": json.dumps(rest)})


def restore_random_states(directory: Path, rank: int) -> None:
    """Sets the random states of this process; a process that was not there before keeps its own."""
    path = directory / f"random-{rank}.safetensors"
    if not path.exists() and rank > 0:
        return
    tensors = read_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            rest = json.loads((file.metadata() or {})["rest"])
        (version, gauss), (kind, position, has_gauss, cached) = rest["python"], rest["numpy"]
        random.setstate((version, tuple(tensors["python"].tolist()), gauss))
        np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(tensors["torch"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(path, f"holds no random states ({error})", hint=_INCOMPLETE) from error
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file; CheckpointError if it cannot be read."""
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", hint=_INCOMPLETE) from error


def _plain(value: Any) -> Any:
    """A value as JSON has it; tuples and tensors of one number are marked."""
    if isinstance(value, Tensor):
        return {"tensor": value.item()}
    if isinstance(value, tuple):
        return {"tuple": [_plain(one) for one in value]}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"tensor"}:
        return torch.tensor(value["tensor"])
    if isinstance(value, dict) and value.keys() == {"tuple"}:
        return tuple(_from_plain(one) for one in value["tuple"])
    if isinstance(value, list):
        return [_from_plain(one) for one in value]
    return value


def _number(key: str) -> int | str:
    return int(key) if key.isdecimal() else key
