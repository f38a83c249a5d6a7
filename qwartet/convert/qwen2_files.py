"""config.json, generation_config.json and tokenizer_config.json of a converted model, for transformers and vLLM.

rope_theta, torch_dtype     the older names, which transformers 4 and 5 and vLLM all read
eos_token_id                the ids at which the published chat stops, too
max_new_tokens              left out: vLLM would take the published default for an upper limit
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwartet.convert.later_layouts import ARCHITECTURES, LaterFamily
from qwartet.convert.tokenizer_json import added_token
from qwartet.errors import SettingError
from qwartet.layers.rotary import PositionConfig, ntk_alpha
from qwartet.models.config import ModelConfig
from qwartet.models.generation_config import GenerationDefaults
from qwartet.quant_format.config import GptqConfig
from qwartet.tokenizer.chatml import CHAT_TEMPLATE
from qwartet.tokenizer.vocabulary import ENDOFTEXT, IM_END, IM_START, Vocabulary

# transformers 5 takes this class for any Qwen2 model, and uses tokenizer.json as it is for the other one.
_TOKENIZER_CLASSES: dict[LaterFamily, str] = {"qwen2": "Qwen2Tokenizer", "llama": "PreTrainedTokenizerFast"}
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_DROPPED = (  # from generation_config.json: of the published code alone, or written anew
    "chat_format", "max_window_size", "max_new_tokens", "max_length", "stop_words_ids", "trust_remote_code",
    "eos_token_id", "pad_token_id", "transformers_version",
)  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """How far a converted model reaches, and by which rotary base."""

    max_length: int  # tokens
    rope_theta: float
    ntk_alpha: int  # folded into rope_theta; 1: none


def reach_of(position: PositionConfig, context: int | None) -> Reach:
    """Up to `context` tokens, or as far as the conversion is exact; SettingError for more than the model's own maximum.

    Beyond the trained length, the NTK of a prompt of `context` tokens is folded into rope_theta.
    """
    if context is None:
        extends = position.use_dynamic_ntk or position.use_logn_attn
        return Reach(position.train_length if extends else position.max_length, position.rope_theta, 1)
    if not 2 <= context <= position.max_length:
        raise SettingError(
            f"--context is {context}; it must be between 2 and {position.max_length}, the model's maximum"
        )
    alpha, dim = ntk_alpha(position.alpha_slot(context)), position.rotary_dim
    return Reach(context, position.rope_theta * alpha ** (dim / (dim - 2)), alpha)


def config_json(
    config: ModelConfig, family: LaterFamily, reach: Reach, dtype: str, gptq: GptqConfig | None, eos: int | None
) -> dict[str, Any]:
    """The content of config.json; `config` has the width of the MLP on disk, `dtype` is the safetensors name."""
    content: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "attention_dropout": 0.0,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": reach.max_length,
        "model_type": family,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": reach.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": _DTYPES[dtype],
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if family == "llama":
        content |= {"attention_bias": True, "head_dim": config.head_dim, "mlp_bias": True}
    else:
        content |= {"max_window_layers": config.num_layers, "sliding_window": None, "use_sliding_window": False}
    if gptq is not None:
        content["quantization_config"] = gptq.to_quantization_config()
    return {key: value for key, value in sorted(content.items()) if value is not None or key == "sliding_window"}


def end_ids(defaults: GenerationDefaults, vocabulary: Vocabulary | None) -> list[int]:
    """The ids at which an answer ends: those of the published chat, and of the file; the main one first."""
    ids = list(defaults.eos_token_ids)
    if defaults.is_chat and vocabulary is not None:
        ids = [vocabulary.special_tokens[token] for token in (IM_END, IM_START)] + ids
    ids += [words[0] for words in defaults.stop_words_ids if len(words) == 1]
    return list(dict.fromkeys(ids))


def generation_config_json(raw: Mapping[str, Any], ends: list[int]) -> dict[str, Any]:
    """The content of generation_config.json, from that of the original."""
    content = {key: value for key, value in raw.items() if key not in _DROPPED}
    if ends:
        content["eos_token_id"] = ends if len(ends) > 1 else ends[0]
        content["pad_token_id"] = ends[-1] if raw.get("pad_token_id") is None else raw["pad_token_id"]
    return dict(sorted(content.items()))


def tokenizer_config_json(
    vocabulary: Vocabulary, family: LaterFamily, max_length: int, is_chat: bool
) -> dict[str, Any]:
    """The content of tokenizer_config.json; a chat model has the ChatML template."""
    content = {
        "added_tokens_decoder": {
            str(token_id): added_token(token) for token, token_id in vocabulary.special_tokens.items()
        },
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE if is_chat else None,
        "clean_up_tokenization_spaces": False,
        "eos_token": IM_END if is_chat else ENDOFTEXT,
        "errors": "replace",
        "model_max_length": max_length,
        "pad_token": ENDOFTEXT,
        "split_special_tokens": False,
        "tokenizer_class": _TOKENIZER_CLASSES[family],
        "unk_token": None,
    }
    return {key: value for key, value in content.items() if value is not None or key != "chat_template"}
