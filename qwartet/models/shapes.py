"""The published sizes as data, and their config files.

Sources: config.json and generation_config.json of Qwen/Qwen-1_8B-Chat, -7B-Chat, -14B-Chat and -72B-Chat, in their last
published form. Keys that all four share are written once, in config_json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from qwartet.errors import SettingError
from qwartet.quant_format.awq_config import AwqConfig
from qwartet.quant_format.config import GptqConfig

ShapeName = Literal["1.8b", "7b", "14b", "72b"]
Precision = Literal["int4", "int8", "bf16"]
Method = Literal["gptq", "awq"]
HEAD_DIM = 128  # kv_channels of every size
PUBLISHED_GROUP_SIZE = 128


@dataclass(frozen=True)
class Shape:
    """What distinguishes one published size from the others. Sizes are in elements, lengths in tokens."""

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int  # width of the MLP; config.json holds twice this number
    vocab_size: int  # rows of the embedding and of lm_head, padding included
    seq_length: int  # trained on; beyond it NTK and LogN begin where they are used
    max_position_embeddings: int
    rotary_emb_base: int
    uses_ntk_and_logn: bool
    max_window_size: int  # prompt tokens beyond which chat drops old turns
    num_ranks: int = 151_643  # of the vocabulary; the special tokens follow


SHAPES: dict[ShapeName, Shape] = {
    "1.8b": Shape("1.8b", 2048, 24, 16, 5504, 151_936, 8192, 8192, 10_000, True, 6144),
    "7b": Shape("7b", 4096, 32, 32, 11_008, 151_936, 8192, 32_768, 10_000, True, 24_000),
    "14b": Shape("14b", 5120, 40, 40, 13_696, 152_064, 2048, 8192, 10_000, True, 6144),
    "72b": Shape("72b", 8192, 80, 64, 24_576, 152_064, 32_768, 32_768, 1_000_000, False, 24_000),
}


def published_size(hidden_size: object, num_layers: object) -> ShapeName | None:
    """The published size with this width and depth, whatever stands in a config; None for another model."""
    wanted = (hidden_size, num_layers)
    return next((name for name, shape in SHAPES.items() if (shape.hidden_size, shape.num_layers) == wanted), None)


def gptq_config(
    precision: Precision, group_size: int | None = None, desc_act: bool = False, method: Method = "gptq"
) -> GptqConfig | None:
    """The quantisation settings of a precision, as published unless set otherwise; None for bf16.

    SettingError for an unknown precision, for settings out of bounds, and for settings that do not belong together.
    """
    if precision not in get_args(Precision):
        raise SettingError(f"precision is {precision!r}; it must be one of {', '.join(get_args(Precision))}")
    if precision == "bf16":
        if group_size is not None or desc_act:
            raise SettingError("group_size and desc_act belong to GPTQ; leave them out with bf16, or use int4 or int8")
        if method == "awq":
            raise SettingError("bf16 is not quantised; leave out the format awq, or use int4")
        return None
    group_size = PUBLISHED_GROUP_SIZE if group_size is None else group_size
    if method == "awq":
        if desc_act:
            raise SettingError("desc_act belongs to GPTQ; leave it out with AWQ")
        return AwqConfig.of(group_size, bits=int(precision[3:]))
    return GptqConfig(bits=int(precision[3:]), group_size=group_size, desc_act=desc_act, sym=True)


def config_json(shape: Shape, gptq: GptqConfig | None) -> dict[str, Any]:
    """The content of config.json, keys and their order as published; with `gptq`, that of a quantised checkpoint."""
    config: dict[str, Any] = {
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": gptq is not None,
        "fp32": False,
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": 2 * shape.intermediate_size,
        "kv_channels": HEAD_DIM,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": shape.max_position_embeddings,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "rotary_emb_base": shape.rotary_emb_base,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": shape.seq_length,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "transformers_version": "4.32.0",
        "use_cache": True,
        "use_dynamic_ntk": shape.uses_ntk_and_logn,
        "use_flash_attn": "auto",
        "use_logn_attn": shape.uses_ntk_and_logn,
        "vocab_size": shape.vocab_size,
    }
    if gptq is not None:
        config |= {"torch_dtype": "float16", "quantization_config": gptq.to_quantization_config()}
    return dict(sorted(config.items()))


def generation_config_json(shape: Shape, eos_token_id: int | None = None) -> dict[str, Any]:
    """The content of a chat model's generation_config.json; `eos_token_id` is <|endoftext|> of another vocabulary."""
    eos = shape.num_ranks if eos_token_id is None else eos_token_id
    return {
        "chat_format": "chatml",
        "eos_token_id": eos,
        "pad_token_id": eos,
        "max_window_size": shape.max_window_size,
        "max_new_tokens": 512,
        "do_sample": True,
        "top_k": 0,
        "top_p": 0.8,
        "repetition_penalty": 1.1,
        "transformers_version": "4.31.0",
    }
