"""Models that are easily mistaken for a supported checkpoint: LoRA adapters, GGUF files, Qwen-VL, Qwen-Audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
# Models of the same architecture and model_type that have a second network in front.
_OTHER_SENSES = {
    "visual": ("Qwen-VL", "takes images"), "vision_config": ("Qwen-VL", "takes images"),
    "audio": ("Qwen-Audio", "takes audio"), "audio_config": ("Qwen-Audio", "takes audio"),
}  # fmt: skip


def adapter_error(directory: Path) -> CheckpointError:
    """The error for weights that are an adapter, or were saved with one that is not merged."""
    try:
        base = read_json(directory / ADAPTER_CONFIG).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    of = f" for {base!r:.120}" if base else ""
    hint = "merge it into its base model (in PEFT: merge_and_unload, then save_pretrained), and load the result"
    return CheckpointError(directory, f"holds a LoRA adapter{of}, not a complete model", hint=hint)


def check_not_gguf(directory: Path) -> None:
    """CheckpointError for a directory whose weights are a file of llama.cpp."""
    if found := sorted(directory.glob("*.gguf")):
        reason = f"holds {found[0].name!r:.120}, a GGUF file of llama.cpp, and no config.json"
        hint = "use the checkpoint that it was made from, such as Qwen/Qwen-7B-Chat-Int4"
        raise CheckpointError(directory, reason, hint=hint)


def check_senses(raw: Mapping[str, Any], path: Path) -> None:
    """CheckpointError for the config.json of a vision or audio model."""
    for key, (model, what) in _OTHER_SENSES.items():
        if raw.get(key) is not None:
            reason = f"is of a {model} checkpoint (key {key!r}), which {what}; Qwartet runs text models only"
            raise CheckpointError(path, reason, hint="use one of those, such as Qwen/Qwen-7B-Chat")
