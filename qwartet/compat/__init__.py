"""The model card's own Python interface on Qwartet's engine, its quirks included; imports no transformers.

    from qwartet.compat import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, make_context, decode_tokens

Names are loaded on first use; they are those that the published recipes import from transformers, modelscope,
auto_gptq and qwen_generation_utils.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwartet.compat.generation_config import GenerationConfig as GenerationConfig
    from qwartet.compat.generation_utils import decode_tokens as decode_tokens
    from qwartet.compat.generation_utils import get_stop_words_ids as get_stop_words_ids
    from qwartet.compat.generation_utils import make_context as make_context
    from qwartet.compat.logits_processors import LogitsProcessor as LogitsProcessor
    from qwartet.compat.logits_processors import LogitsProcessorList as LogitsProcessorList
    from qwartet.compat.logits_processors import StopWordsLogitsProcessor as StopWordsLogitsProcessor
    from qwartet.compat.modeling import AutoGPTQForCausalLM as AutoGPTQForCausalLM
    from qwartet.compat.modeling import AutoModelForCausalLM as AutoModelForCausalLM
    from qwartet.compat.seed import set_seed as set_seed
    from qwartet.compat.streamers import TextIteratorStreamer as TextIteratorStreamer
    from qwartet.compat.streamers import TextStreamer as TextStreamer
    from qwartet.compat.tokenization import AutoTokenizer as AutoTokenizer

_LAZY = {
    "GenerationConfig": "generation_config",
    "decode_tokens": "generation_utils",
    "get_stop_words_ids": "generation_utils",
    "make_context": "generation_utils",
    "LogitsProcessor": "logits_processors",
    "LogitsProcessorList": "logits_processors",
    "StopWordsLogitsProcessor": "logits_processors",
    "AutoGPTQForCausalLM": "modeling",
    "AutoModelForCausalLM": "modeling",
    "set_seed": "seed",
    "TextIteratorStreamer": "streamers",
    "TextStreamer": "streamers",
    "AutoTokenizer": "tokenization",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"qwartet.compat.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'qwartet.compat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_LAZY)
