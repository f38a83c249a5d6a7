"""Which file of a directory holds its weights, or lists those that do? And what does the directory hold instead?

    model.safetensors.index.json    the index of shards
    model.safetensors               all of them

A quantiser may use a base name of its own, "gptq_model-4bit-128g" for "model"; its config then states it.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

from qwartet.checkpoint.directory import has_file, names_in
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG, adapter_error
from qwartet.checkpoint.safetensors_file import shown
from qwartet.errors import CheckpointError, CheckpointWarning

INDEX_NAME = "model.safetensors.index.json"
_FILE_SUFFIXES = (".safetensors.index.json", ".safetensors")
BASE_KEYS = ("model_file_base_name", "model_basename")
_BASE_NAME = re.compile(r"\w[\w.-]{0,200}", re.ASCII)
# Beside a model, but not part of it: PEFT adapters, the state of a training run.
_STRAY = re.compile(r"adapter_|optimizer|scheduler|rng_state|training_args|random_states")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def find_weights(directory: Path) -> Path:
    """The index of the shards, or the only file; CheckpointError says what the directory holds instead.

    CheckpointWarning for an adapter beside the model.
    """
    names = names_in(directory)
    _warn_of_adapter(directory, names)
    for base in (*_stated_base_names(directory), "model"):
        for suffix in _FILE_SUFFIXES:
            if has_file(directory / f"{base}{suffix}"):
                return directory / f"{base}{suffix}"
    found: list[str] = []
    for suffix in _FILE_SUFFIXES:
        found = [name for name in names if name.endswith(suffix) and not is_stray(name)]
        if len(found) == 1 and has_file(directory / found[0]):
            return directory / found[0]
        if found:
            break
    if not found:
        raise _without_weights(directory, names)
    hint = "fetch the index file too"
    if found[0].endswith(_FILE_SUFFIXES[0]):
        hint = f"say which in quantize_config.json ({BASE_KEYS[0]}), or remove the others"
    raise CheckpointError(directory, f"{listed(found)} without {INDEX_NAME}", hint=hint)


def listed(names: list[str], most: int = 10) -> str:
    """The first names of a list, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def _stated_base_names(directory: Path) -> Iterator[str]:
    """What the quantiser's configs call the weights, without the suffix."""
    for file, key in (("quantize_config.json", None), ("config.json", "quantization_config")):
        try:
            content = read_json(directory / file)
        except CheckpointError:  # reported where the file is needed
            continue
        config = content if key is None else content.get(key)
        for name in BASE_KEYS:
            base = config.get(name) if isinstance(config, dict) else None
            if isinstance(base, str) and _BASE_NAME.fullmatch(base):
                yield base.removesuffix(".safetensors")


def is_stray(name: str) -> bool:
    """Whether a file of this name may be beside the weights without being one of them."""
    return _STRAY.match(name) is not None


def pickled_weights(names: list[str]) -> list[str]:
    """Those names that are of pickled weights."""
    return [name for name in names if name.endswith(_PICKLE_SUFFIXES) and not is_stray(name)]


def _without_weights(directory: Path, names: list[str]) -> CheckpointError:
    if ADAPTER_CONFIG in names or any(map(_is_adapter, names)):
        return adapter_error(directory)
    if pickled_weights(names):
        reason = "holds only pickled weights, which can run code when loaded; Qwartet never loads them"
        hint = f"qwartet convert {shlex.quote(str(directory))} NEW-DIRECTORY writes them as safetensors"
        return CheckpointError(directory, reason, hint=hint)
    return CheckpointError(directory, "holds no .safetensors file", hint="is this a checkpoint directory?")


def _is_adapter(name: str) -> bool:
    return name.startswith("adapter_model.")


def _warn_of_adapter(directory: Path, names: list[str]) -> None:
    adapters = list(filter(_is_adapter, names))
    if adapters and any(name.endswith(".safetensors") and not is_stray(name) for name in names):
        message = f"{directory}: {listed(adapters)} is an adapter (LoRA) and is not applied; merge it into the model"
        warnings.warn(message, CheckpointWarning, stacklevel=4)
