"""A checkpoint in the Qwen2 or Llama layout that has a first-generation form; otherwise the reason why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG, adapter_error, check_not_gguf
from qwartet.convert.later_layouts import ARCHITECTURES, LaterFamily, later_layout
from qwartet.errors import CheckpointError
from qwartet.models.config import ModelConfig
from qwartet.models.load import OpenCheckpoint, load_gptq_config, open_as
from qwartet.models.qwen2 import open_config, read_config
from qwartet.quant_format.config import GptqConfig

_NO_FORM = "this model has no first-generation form"


def open_later(directory: Path, checkpoint_format: str | None = None) -> OpenCheckpoint:
    """Opens such a checkpoint; CheckpointError for one that is damaged, or has no first-generation form."""
    path = directory / "config.json"
    if not has_file(path):
        if has_file(directory / ADAPTER_CONFIG):
            raise adapter_error(directory)
        check_not_gguf(directory)
    raw = read_json(path)
    family = _family_of(raw, path)
    config = _config(raw, path, family)
    check_method(load_gptq_config(directory), path)
    return open_as(directory, config, lambda _checkpoint: later_layout(config, family), "pread", checkpoint_format)


def check_method(gptq: GptqConfig | None, path: Path) -> None:
    """CheckpointError for codes that are not in GPTQ's layout."""
    if gptq is not None and gptq.method != "gptq":
        reason = f"the linears are quantised by {gptq.method.upper()}; only float and GPTQ checkpoints are converted"
        raise CheckpointError(path, reason, hint="convert the float model, or the GPTQ one")


def _family_of(raw: Mapping[str, Any], path: Path) -> LaterFamily:
    """The layout of the tensors; CheckpointError for another family."""
    model_type = raw.get("model_type")
    if model_type == "qwen":
        raise CheckpointError(path, "is already first-generation Qwen", hint="there is nothing to convert")
    if model_type == "qwen2":
        return "qwen2"
    if model_type == "llama":
        if raw.get("attention_bias") is True and raw.get("mlp_bias") is True:
            return "llama"
        raise CheckpointError(path, "has no biases on all linears (attention_bias, mlp_bias)", hint=_NO_FORM)
    raise CheckpointError(path, f"model_type is {model_type!r:.80}; only qwen2 is converted to qwen1", hint=_NO_FORM)


def _config(raw: Mapping[str, Any], path: Path, family: LaterFamily) -> ModelConfig:
    """ModelConfig of a config.json; CheckpointError for what the first generation does not have."""
    config = read_config(open_config(raw, path, ARCHITECTURES[family]))
    heads, kv_heads, head_dim, hidden = config.num_heads, config.num_kv_heads, config.head_dim, config.hidden_size
    shared = f"uses grouped-query attention ({heads} heads, {kv_heads} key/value heads)"
    _refuse_if(kv_heads != heads, path, shared)
    _refuse_if(heads * head_dim != hidden, path, f"{heads} heads of {head_dim} do not add up to hidden_size {hidden}")
    _refuse_if(config.tied_embeddings, path, "embedding and output layer share one tensor (tie_word_embeddings)")
    _refuse_if(config.position.yarn is not None, path, "uses scaled positions (YaRN)")
    return config


def _refuse_if(is_refused: bool, path: Path, reason: str) -> None:
    if is_refused:
        raise CheckpointError(path, reason, hint=_NO_FORM)
