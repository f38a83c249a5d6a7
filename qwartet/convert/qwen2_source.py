"""A checkpoint in the Qwen2 or Llama layout that has a first-generation form; otherwise the reason why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.expected_tensors import check_dense_shapes, check_names
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG, adapter_error, check_not_gguf
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.unfinished_downloads import check_downloads
from qwartet.checkpoint.zero_version import with_zero_version
from qwartet.convert.later_layouts import LaterFamily, later_layout
from qwartet.errors import CheckpointError, SettingError
from qwartet.layers.rotary import PositionConfig
from qwartet.models.config import ConfigReader, ModelConfig
from qwartet.models.load import OpenCheckpoint, load_gptq_config
from qwartet.quant_format.config import GptqConfig

_BOUNDS = {
    "hidden_size": (1, 2**17),
    "num_hidden_layers": (1, 1024),
    "num_attention_heads": (1, 1024),
    "num_key_value_heads": (1, 1024),
    "intermediate_size": (1, 2**19),
    "max_position_embeddings": (2, 2**22),
    "vocab_size": (1, 2**22),
    "head_dim": (2, 4096),
}
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
    config = later_config(raw, path)
    gptq = load_gptq_config(directory)
    check_method(gptq, path)
    checkpoint = Checkpoint(directory, "pread")
    check_downloads(directory, checkpoint.files)
    layout = later_layout(config, family)
    check_names(checkpoint, layout, gptq)
    check_dense_shapes(checkpoint, layout, gptq)
    if gptq is not None:
        gptq = with_zero_version(gptq, checkpoint, layout, checkpoint_format)
    elif checkpoint_format is not None:
        raise SettingError(f"checkpoint_format is {checkpoint_format!r}, but {directory} is not GPTQ; leave it out")
    return OpenCheckpoint(config, gptq, checkpoint, layout)


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


def later_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig of a Qwen2 or Llama config.json; CheckpointError for what the first generation does not have."""
    config = ConfigReader(raw, path, _BOUNDS, {}, "is this a Qwen2 checkpoint?")
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", default=heads)
    hidden = config.integer("hidden_size")
    head_dim = config.integer("head_dim", default=max(hidden // heads, 2))
    shared = f"uses grouped-query attention ({heads} heads, {kv_heads} key/value heads)"
    _refuse_if(kv_heads != heads, path, shared)
    _refuse_if(heads * head_dim != hidden, path, f"{heads} heads of {head_dim} do not add up to hidden_size {hidden}")
    is_tied = config.flag("tie_word_embeddings", False)
    _refuse_if(is_tied, path, "embedding and output layer share one tensor (tie_word_embeddings)")
    activation = raw.get("hidden_act", "silu")
    _refuse_if(activation != "silu", path, f"hidden_act is {activation!r:.80}, not silu")
    _refuse_if(_slides(raw), path, "uses sliding-window attention")
    _refuse_if(_scales(raw), path, "uses scaled positions (rope_scaling)")
    length = config.integer("max_position_embeddings", default=32_768)
    return ModelConfig(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        num_layers=config.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        intermediate_size=config.integer("intermediate_size"),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        position=PositionConfig(_rope_theta(config), head_dim, length, length, False, False),
        family=str(raw.get("model_type")),
    )


def _refuse_if(is_refused: bool, path: Path, reason: str) -> None:
    if is_refused:
        raise CheckpointError(path, reason, hint=_NO_FORM)


def _slides(raw: Mapping[str, Any]) -> bool:
    types = raw.get("layer_types")
    others = isinstance(types, list) and any(kind != "full_attention" for kind in types)
    return bool(raw.get("use_sliding_window", False)) or others


def _scales(raw: Mapping[str, Any]) -> bool:
    parameters = raw.get("rope_parameters")
    kind = parameters.get("rope_type", "default") if isinstance(parameters, Mapping) else "default"
    return raw.get("rope_scaling") is not None or kind != "default"


def _rope_theta(config: ConfigReader) -> float:
    """The rotary base: transformers 5 writes it into rope_parameters, earlier versions beside the other keys."""
    parameters = config.raw.get("rope_parameters")
    raw = parameters if isinstance(parameters, Mapping) and "rope_theta" in parameters else config.raw
    return ConfigReader(raw, config.path, _BOUNDS, {}, "").number("rope_theta", 10_000.0)
