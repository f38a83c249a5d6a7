"""The published sizes of each family as data, and their config files.

Sources: config.json and generation_config.json of Qwen/Qwen-1_8B-Chat to -72B-Chat in their last published form, of
Qwen/Qwen2.5-0.5B-Instruct to -72B-Instruct, and of Qwen/Qwen3-0.6B to -32B. Keys that all sizes of a family share are
written once.
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
HEAD_DIM = 128  # of every size but Qwen2.5-0.5B
PUBLISHED_GROUP_SIZE = 128


@dataclass(frozen=True)
class Shape:
    """What distinguishes one published size from the others. Sizes are in elements, lengths in tokens."""

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int  # width of the MLP; a Qwen-1 config.json holds twice this number
    vocab_size: int  # rows of the embedding and of lm_head, padding included
    seq_length: int  # trained on; beyond it NTK and LogN begin where they are used
    max_position_embeddings: int
    rotary_emb_base: int
    uses_ntk_and_logn: bool
    max_window_size: int  # prompt tokens beyond which chat drops old turns
    num_ranks: int = 151_643  # of the vocabulary; the special tokens follow
    family: str = "qwen"  # model_type
    kv_heads: int | None = None  # None: as many as heads
    head_dim: int = HEAD_DIM
    tied_embeddings: bool = False
    quantised_intermediate_size: int | None = None  # of the GPTQ files, where these pad the MLP

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.num_heads


SHAPES: dict[ShapeName, Shape] = {
    "1.8b": Shape("1.8b", 2048, 24, 16, 5504, 151_936, 8192, 8192, 10_000, True, 6144),
    "7b": Shape("7b", 4096, 32, 32, 11_008, 151_936, 8192, 32_768, 10_000, True, 24_000),
    "14b": Shape("14b", 5120, 40, 40, 13_696, 152_064, 2048, 8192, 10_000, True, 6144),
    "72b": Shape("72b", 8192, 80, 64, 24_576, 152_064, 32_768, 32_768, 1_000_000, False, 24_000),
}
"""The first generation."""


def _qwen25(size: str, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int, **more: Any) -> Shape:
    fixed: dict[str, Any] = {"family": "qwen2", "kv_heads": kv_heads, "tied_embeddings": vocab == 151_936, **more}
    sizes = (hidden, layers, heads, mlp, vocab, 32_768, 32_768)
    return Shape(f"qwen2.5-{size}", *sizes, 1_000_000, False, 32_768, **fixed)


def _qwen3(size: str, hidden: int, layers: int, heads: int, mlp: int, is_tied: bool) -> Shape:
    sizes = (hidden, layers, heads, mlp, 151_936, 40_960, 40_960)
    fixed: dict[str, Any] = {"family": "qwen3", "kv_heads": 8, "tied_embeddings": is_tied}
    return Shape(f"qwen3-{size}", *sizes, 1_000_000, False, 40_960, **fixed)


_LATER = (
    _qwen25("0.5b", 896, 24, 14, 2, 4864, 151_936, head_dim=64),
    _qwen25("1.5b", 1536, 28, 12, 2, 8960, 151_936),
    _qwen25("3b", 2048, 36, 16, 2, 11_008, 151_936),
    _qwen25("7b", 3584, 28, 28, 4, 18_944, 152_064),
    _qwen25("14b", 5120, 48, 40, 8, 13_824, 152_064),
    _qwen25("32b", 5120, 64, 40, 8, 27_648, 152_064),
    _qwen25("72b", 8192, 80, 64, 8, 29_568, 152_064, quantised_intermediate_size=29_696),
    _qwen3("0.6b", 1024, 28, 16, 3072, is_tied=True),
    _qwen3("1.7b", 2048, 28, 16, 6144, is_tied=True),
    _qwen3("4b", 2560, 36, 32, 9728, is_tied=True),
    _qwen3("8b", 4096, 36, 32, 12_288, is_tied=False),
    _qwen3("14b", 5120, 40, 40, 17_408, is_tied=False),
    _qwen3("32b", 5120, 64, 64, 25_600, is_tied=False),
)
ALL_SHAPES: dict[str, Shape] = {shape.name: shape for shape in (*SHAPES.values(), *_LATER)}
"""The same, and those of Qwen2.5 and Qwen3."""


def shape_of(name: str) -> Shape:
    """The published size of this name; SettingError where there is none."""
    if name not in ALL_SHAPES:
        raise SettingError(f"{name!r:.80} is not a published size; use one of {', '.join(ALL_SHAPES)}")
    return ALL_SHAPES[name]


def published_size(hidden_size: object, num_layers: object, model_type: object = "qwen") -> str | None:
    """The published size with this width and depth, whatever stands in a config; None for another model.

    Only the first generation: models of other families have the same widths and depths.
    """
    wanted = (hidden_size, num_layers)
    if model_type != "qwen":
        return None
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
    return _qwen1_config(shape, gptq) if shape.family == "qwen" else _later_config(shape, gptq)


def _qwen1_config(shape: Shape, gptq: GptqConfig | None) -> dict[str, Any]:
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


def _later_config(shape: Shape, gptq: GptqConfig | None) -> dict[str, Any]:
    is_qwen3 = shape.family == "qwen3"
    width = shape.intermediate_size
    config: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM" if is_qwen3 else "Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": shape.num_ranks,
        "eos_token_id": shape.num_ranks + 2,  # <|im_end|>
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": width if gptq is None else shape.quantised_intermediate_size or width,
        "max_position_embeddings": shape.max_position_embeddings,
        "max_window_layers": shape.num_layers,
        "model_type": shape.family,
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": shape.rotary_emb_base,
        "sliding_window": None if is_qwen3 else shape.max_position_embeddings,
        "tie_word_embeddings": shape.tied_embeddings,
        "torch_dtype": "bfloat16" if gptq is None else "float16",
        "transformers_version": "4.51.0" if is_qwen3 else "4.43.1",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab_size,
    }
    if is_qwen3:
        config |= {"attention_bias": False, "head_dim": shape.head_dim, "rope_scaling": None}
    if gptq is not None:
        config["quantization_config"] = gptq.to_quantization_config()
    return dict(sorted(config.items()))


def generation_config_json(shape: Shape, eos_token_id: int | None = None) -> dict[str, Any]:
    """The content of a chat model's generation_config.json; `eos_token_id` is <|endoftext|> of another vocabulary."""
    eos = shape.num_ranks if eos_token_id is None else eos_token_id
    if shape.family != "qwen":
        is_qwen3 = shape.family == "qwen3"
        return {
            "bos_token_id": eos,
            "do_sample": True,
            "eos_token_id": [eos + 2, eos],  # <|im_end|>, <|endoftext|>
            "pad_token_id": eos,
            **({} if is_qwen3 else {"repetition_penalty": 1.1 if shape.hidden_size < 3000 else 1.05}),
            "temperature": 0.6 if is_qwen3 else 0.7,
            "top_k": 20,
            "top_p": 0.95 if is_qwen3 else 0.8,
            "transformers_version": "4.51.0" if is_qwen3 else "4.37.0",
        }
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
