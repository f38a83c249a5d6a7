"""config.json of a QWenLMHeadModel -> ModelConfig, with every value checked before anything is allocated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.layers.rotary import PositionConfig
from qwartet.models.json_file import read_json

MAX_ROTARY_VALUES = 2**26  # cosines; with the sines 512 MiB

# The first published configs (August 2023) used the GPT-2 names; later ones the Hugging Face names.
_ALIASES = {
    "hidden_size": ("hidden_size", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "max_length": ("max_position_embeddings", "n_positions"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
}
_BOUNDS = {
    "hidden_size": (1, 2**17),
    "num_layers": (1, 1024),
    "num_heads": (1, 1024),
    "intermediate_size": (2, 2**20),
    "max_length": (1, 2**22),
    "vocab_size": (1, 2**22),
    "kv_channels": (2, 4096),
    "seq_length": (2, 2**22),
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape and numerics of one network. Sizes are in elements."""

    vocab_size: int  # rows of the embedding and of lm_head, padding included
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int  # width of the MLP (half of the value in a Qwen-1 config.json)
    rms_norm_eps: float
    position: PositionConfig
    declared_dtype: str | None = None  # "bf16", "fp16", "fp32" where config.json insists on one

    @property
    def num_parameters(self) -> int:
        """Parameters of the float network, biases of the attention projection included."""
        attention_width = self.num_heads * self.head_dim
        kv_width = self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (attention_width + 2 * kv_width) + attention_width * self.hidden_size
        bias = attention_width + 2 * kv_width
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = (2 * self.num_layers + 1) * self.hidden_size
        return self.num_layers * (attention + bias + mlp) + norms + 2 * self.vocab_size * self.hidden_size

    @property
    def num_linear_parameters(self) -> int:
        """Weights of the five linears of every block: the part that GPTQ quantises."""
        attention = 2 * self.hidden_size * self.num_heads * self.head_dim
        attention += 2 * self.hidden_size * self.num_kv_heads * self.head_dim
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)


def _integer(path: Path, raw: Mapping[str, Any], field: str, default: int | None = None) -> int:
    names = _ALIASES.get(field, (field,))
    present = [name for name in names if raw.get(name) is not None]
    if not present:
        if default is not None:
            return default
        raise CheckpointError(path, f"key {names[0]!r} is missing", hint="is this a first-generation Qwen?")
    value = raw[present[0]]
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(path, f"{present[0]} is {value!r}; it must be an integer")
    low, high = _BOUNDS[field]
    if not low <= value <= high:
        raise CheckpointError(path, f"{present[0]} is {value}; it must lie in {low}..{high}")
    return value


def _number(path: Path, raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise CheckpointError(path, f"{key} is {value!r}; it must be a positive number")
    return float(value)


def _flag(path: Path, raw: Mapping[str, Any], key: str, default: bool) -> bool:
    value = raw.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(path, f"{key} is {value!r}; it must be true or false")
    return value


def _rope_theta(path: Path, raw: Mapping[str, Any]) -> float:
    key = "rotary_emb_base" if "rotary_emb_base" in raw else "rope_theta"
    theta = _number(path, raw, key, 10000.0)
    if "rope_theta" in raw and _number(path, raw, "rope_theta", theta) != theta:
        warnings.warn(
            f"{path}: rotary_emb_base {theta:g} and rope_theta {raw['rope_theta']} differ; the original code reads "
            "rotary_emb_base, and so does Qwartet",
            CheckpointWarning,
            stacklevel=2,
        )
    return theta


def _position_config(path: Path, raw: Mapping[str, Any], head_dim: int) -> PositionConfig:
    dynamic_ntk = _flag(path, raw, "use_dynamic_ntk", True)
    logn = _flag(path, raw, "use_logn_attn", True)
    max_length = _integer(path, raw, "max_length", default=8192)
    needs_train_length = dynamic_ntk or logn
    train_length = _integer(path, raw, "seq_length", default=None if needs_train_length else max_length)
    rotary_dim = int(head_dim * _number(path, raw, "rotary_pct", 1.0))
    if not (2 < rotary_dim <= head_dim and rotary_dim % 2 == 0):
        raise CheckpointError(path, f"rotary_pct {raw.get('rotary_pct')} rotates {rotary_dim} of {head_dim} elements")
    position = PositionConfig(
        rope_theta=_rope_theta(path, raw),
        rotary_dim=rotary_dim,
        train_length=train_length,
        max_length=max(max_length, train_length),
        use_dynamic_ntk=dynamic_ntk,
        use_logn_attn=logn,
    )
    if position.num_alphas * position.max_length * (rotary_dim // 2) > MAX_ROTARY_VALUES:
        reason = (
            f"seq_length {train_length} and max_position_embeddings {max_length} take {position.num_alphas} NTK tables"
        )
        raise CheckpointError(path, reason, hint="one of the two is wrong")
    return position


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig from the content of a config.json; CheckpointError names the key that is missing or wrong."""
    model_type = raw.get("model_type")
    if model_type != "qwen":
        raise CheckpointError(
            path, f"model_type is {model_type!r}", hint='Qwartet runs first-generation Qwen models (model_type "qwen")'
        )
    hidden_size = _integer(path, raw, "hidden_size")
    num_heads = _integer(path, raw, "num_heads")
    head_dim = _integer(path, raw, "kv_channels", default=128)
    if num_heads * head_dim != hidden_size:
        raise CheckpointError(
            path, f"{num_heads} heads of {head_dim} (kv_channels) do not make hidden_size {hidden_size}"
        )
    mlp_value = _integer(path, raw, "intermediate_size")
    if mlp_value % 2:
        raise CheckpointError(path, f"intermediate_size is {mlp_value}; it must be even (w1 and w2 take half each)")
    for key, required in (("tie_word_embeddings", False), ("scale_attn_weights", True)):
        if _flag(path, raw, key, required) is not required:
            raise CheckpointError(path, f"{key} is {raw[key]}; every published model has {required}")
    declared = [name for name in ("bf16", "fp16", "fp32") if raw.get(name) is True]
    if len(declared) > 1:
        raise CheckpointError(path, f"{' and '.join(declared)} are both true; at most one may be")
    return ModelConfig(
        vocab_size=_integer(path, raw, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=_integer(path, raw, "num_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        intermediate_size=mlp_value // 2,
        rms_norm_eps=_number(path, raw, "layer_norm_epsilon", 1e-6),
        position=_position_config(path, raw, head_dim),
        declared_dtype=declared[0] if declared else None,
    )


def load_config(directory: Path) -> ModelConfig:
    """ModelConfig of a checkpoint directory."""
    path = directory / "config.json"
    return parse_config(read_json(path), path)
