"""QWenConfig: config.json of a first-generation Qwen as transformers' configuration, every published field included.

Two things stay out of transformers' reach. `quantization_config` is kept as data under `gptq`, because transformers'
own GPTQ would demand other packages; saving writes it back. Keys that make transformers fetch or run code, or read
other files (auto_map, custom_pipelines, attn_implementation, ...), are not on the list of known keys and do not become
attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from qwartet.errors import SettingError
from qwartet.models.config import ModelConfig
from qwartet.models.families import parse_config

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "emb_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "layer_norm_epsilon": 1e-6, "initializer_range": 0.02,
    "max_position_embeddings": 8192, "scale_attn_weights": True, "use_cache": True, "bf16": False, "fp16": False,
    "fp32": False, "kv_channels": 128, "rotary_pct": 1.0, "rotary_emb_base": 10_000, "use_dynamic_ntk": True,
    "use_logn_attn": True, "use_flash_attn": "auto", "intermediate_size": 22_016, "no_bias": True,
    "tie_word_embeddings": False, "use_cache_quantization": False, "use_cache_kernel": False, "softmax_in_fp32": False,
    "tokenizer_class": "QWenTokenizer",
}  # fmt: skip
"""The published constructor's defaults; seq_length has none."""

# The names of the first published configs (August 2023), and the present ones.
_OLD_NAMES = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size", "n_inner": "intermediate_size", "n_positions": "max_position_embeddings",
}  # fmt: skip
_WITHOUT_DEFAULT = (
    "seq_length", "rope_theta", "onnx_safe", "tokenizer_type", "pos_emb", "apply_residual_connection_post_layernorm",
    "padded_vocab_size", "pad_token_id", "eos_token_id", "bos_token_id",
)  # fmt: skip
# Of every transformers configuration.
_OF_TRANSFORMERS = (
    "architectures", "torch_dtype", "dtype", "transformers_version", "id2label", "label2id", "num_labels",
    "problem_type", "output_hidden_states", "output_attentions", "return_dict", "is_encoder_decoder", "name_or_path",
    "chunk_size_feed_forward", "model_type",
)  # fmt: skip
_FLAGS = ("bf16", "fp16", "fp32")
_DANGEROUS = (
    "auto_map", "custom_pipelines", "attn_implementation", "experts_implementation", "trust_remote_code",
)  # fmt: skip
_PRIVATE = ("gptq", "requested_dtype", "unread")


class QWenConfig(PretrainedConfig):
    """Attributes are the keys of config.json; `gptq` is its quantization_config, None for a float model.

    `requested_dtype` is the dtype flag (bf16, fp16, fp32) that a caller of from_pretrained set, if any. `unread` holds
    unknown keys, so that saving keeps them.
    """

    model_type = "qwen"
    keys_to_ignore_at_inference = ("past_key_values", "cache")

    def __init__(self, **values: Any) -> None:
        quantization = values.pop("quantization_config", None)
        self.gptq: Mapping[str, Any] | None = values.pop("gptq", quantization)
        self.requested_dtype: str | None = None
        old = {new: values.pop(name) for name, new in reversed(_OLD_NAMES.items()) if name in values}
        old.setdefault("vocab_size", values.get("padded_vocab_size"))
        values = {**DEFAULTS, **{name: value for name, value in old.items() if value is not None}, **values}
        known = {*DEFAULTS, *_WITHOUT_DEFAULT, *_OF_TRANSFORMERS}
        self.unread = {name: value for name, value in values.items() if name not in known and not _is_dangerous(name)}
        super().__init__(**{name: value for name, value in values.items() if name in known and name not in DEFAULTS})
        for name in DEFAULTS:  # after transformers, whose constructor has defaults of its own for some
            setattr(self, name, values[name])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QWenConfig) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # it may be changed

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """The configuration of a file's content; `kwargs` are the caller's changes, as transformers passes them.

        SettingError if they set several of bf16, fp16 and fp32.
        """
        wanted = [name for name in _FLAGS if kwargs.get(name)]
        if len(wanted) > 1:
            raise SettingError(f"only one of bf16, fp16 and fp32 may be true; got {' and '.join(wanted)}")
        if wanted:
            kwargs |= {name: name == wanted[0] for name in _FLAGS}
        found = super().from_dict(dict(config_dict), **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        config.requested_dtype = wanted[0] if wanted else None
        return found

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Nothing: a saved configuration comes with no code."""

    def to_dict(self) -> dict[str, Any]:
        """What config.json will hold: the published keys and transformers' own."""
        found: dict[str, Any] = super().to_dict()
        unread = found.get("unread", {})
        found = {**unread, **{name: value for name, value in found.items() if name not in _PRIVATE}}
        if self.gptq is not None:
            found["quantization_config"] = dict(self.gptq)
        return found

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json will hold; dtype also under its name before transformers 5."""
        found: dict[str, Any] = super().to_diff_dict()
        return found | ({"torch_dtype": found["dtype"]} if found.get("dtype") is not None else {})

    def network_config(self) -> ModelConfig:
        """The shape and numerics that this configuration describes; CheckpointError for impossible values."""
        named = {name: getattr(self, name) for name in (*DEFAULTS, *_WITHOUT_DEFAULT) if hasattr(self, name)}
        raw = {**self.unread, **named, "model_type": self.model_type}
        path = Path(self.name_or_path or ".") / "config.json"
        return parse_config({name: value for name, value in raw.items() if value is not None}, path)

    def check_sizes(self, stored: ModelConfig) -> None:
        """SettingError if a size differs from that of the checkpoint: a caller cannot change it."""
        own = self.network_config()
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "head_dim", "intermediate_size"):
            if getattr(own, name) != getattr(stored, name):
                raise SettingError(
                    f"{name} is {getattr(own, name)}, but the checkpoint's is {getattr(stored, name)}; "
                    "sizes cannot be changed when loading"
                )


def _is_dangerous(name: str) -> bool:
    """Whether a key is transformers' own machinery: it is dropped, not kept."""
    return name.startswith("_") or name in _DANGEROUS
