"""The shape and numerics of a network, and a reader of config.json that checks every bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import CheckpointError
from qwartet.layers.rotary import PositionConfig

MAX_ROTARY_VALUES = 2**26  # cosines; with the sines 512 MiB


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
    declared_dtype: str | None = None  # "bf16", "fp16", "fp32" where config.json sets one
    family: str = "qwen"  # model_type of its family
    qkv_bias: bool = True
    output_bias: bool = False  # of the attention's output projection
    qk_norm: bool = False  # an RMSNorm of every query and key head, before they are rotated
    tied_embeddings: bool = False  # lm_head has the weights of the embedding

    @property
    def num_parameters(self) -> int:
        """Parameters of the float network, including the biases of the attention; tied embeddings count once."""
        attention_width = self.num_heads * self.head_dim
        qkv_width = attention_width + 2 * self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (qkv_width + attention_width)
        attention += qkv_width * self.qkv_bias + self.hidden_size * self.output_bias
        attention += 2 * self.head_dim * self.qk_norm
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = (2 * self.num_layers + 1) * self.hidden_size
        embeddings = (2 - self.tied_embeddings) * self.vocab_size * self.hidden_size
        return self.num_layers * (attention + mlp) + norms + embeddings

    @property
    def num_linear_parameters(self) -> int:
        """Weights of the five linears of every block: the part that GPTQ quantises."""
        attention = 2 * self.hidden_size * self.num_heads * self.head_dim
        attention += 2 * self.hidden_size * self.num_kv_heads * self.head_dim
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)


class ConfigReader:
    """Reads a config.json; CheckpointError names the key that is missing or wrong."""

    def __init__(
        self,
        raw: Mapping[str, Any],
        path: Path,
        bounds: Mapping[str, tuple[int, int]],
        aliases: Mapping[str, tuple[str, ...]],
        hint: str,
        prefix: str = "",
    ) -> None:
        """`bounds` of integers by field; `aliases`: the keys of a field, the preferred one first; `hint` for a key that
        is missing; `prefix` of keys in messages, for an object inside the file.
        """
        self.raw, self.path, self.prefix = raw, path, prefix
        self._bounds, self._aliases, self._hint = bounds, aliases, hint

    def integer(self, field: str, default: int | None = None) -> int:
        """A whole number within its bounds."""
        names = self._aliases.get(field, (field,))
        present = [name for name in names if self.raw.get(name) is not None]
        if not present:
            if default is not None:
                return default
            raise CheckpointError(self.path, f"key {self.prefix + names[0]!r} is missing", hint=self._hint)
        value, key = self.raw[present[0]], self.prefix + present[0]
        if isinstance(value, bool) or not isinstance(value, int):
            raise CheckpointError(self.path, f"{key} is {value!r}; it must be an integer")
        low, high = self._bounds[field]
        if not low <= value <= high:
            raise CheckpointError(self.path, f"{key} is {value}; it must be between {low} and {high}")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise CheckpointError(self.path, f"{self.prefix}{key} is {value!r}; it must be a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(self.path, f"{self.prefix}{key} is {value!r}; it must be true or false")
        return value
