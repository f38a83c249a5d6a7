"""Tells transformers of the classes for model_type "qwen", so that its Auto classes find them.

Code that comes with a checkpoint is never executed, also with trust_remote_code=True. Two things see to that:

- Registration. Later versions of transformers prefer a registered class; a tokenizer only if it is found by its name,
  tokenizer_class in tokenizer_config.json, and so it is registered under a configuration of its own.
- A replacement of the function through which transformers gets classes from such code: for a first-generation Qwen it
  returns the class of the same published name, or refuses. Other checkpoints are not touched.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, dynamic_module_utils

from qwartet.errors import SettingError
from qwartet.hf.config import QWenConfig
from qwartet.hf.model import QWenLMHeadModel
from qwartet.hf.peft_hook import register_with_peft
from qwartet.hf.tokenizer import QWenTokenizer

FUNCTION = "get_class_from_dynamic_module"
PUBLISHED = {one.__name__: one for one in (QWenConfig, QWenLMHeadModel, QWenTokenizer)}
_LOCATION = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")


class TokenizerKey(PretrainedConfig):
    """The configuration under which the tokenizer is registered; nothing else has it."""

    model_type = "qwartet_tokenizer"


def register() -> None:
    """Registers everything; a second call changes nothing."""
    AutoConfig.register("qwen", QWenConfig, exist_ok=True)
    AutoModelForCausalLM.register(QWenConfig, QWenLMHeadModel, exist_ok=True)
    AutoTokenizer.register(TokenizerKey, tokenizer_class=QWenTokenizer, exist_ok=True)
    for name, one in PUBLISHED.items():  # `transformers serve` looks up an architecture there
        setattr(transformers, name, one)
    register_with_peft()
    original = getattr(dynamic_module_utils, FUNCTION)
    if hasattr(original, "is_of_qwartet"):
        return
    replacement = _without_code_of_qwen(original)
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "transformers"]:
        if vars(module).get(FUNCTION) is original:
            setattr(module, FUNCTION, replacement)


def _without_code_of_qwen(original: Any) -> Any:
    @functools.wraps(original)
    def get_class_from_dynamic_module(class_reference: str, name: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_qwen(name, {key: kwargs[key] for key in _LOCATION if key in kwargs}):
            return original(class_reference, name, *args, **kwargs)
        ours = PUBLISHED.get(class_reference.rpartition(".")[2])
        if ours is None:
            raise SettingError(
                f"{name}: {class_reference!r:.80} is code that comes with the checkpoint, which is never executed; "
                "remove it from auto_map"
            )
        return ours

    get_class_from_dynamic_module.is_of_qwartet = True  # type: ignore[attr-defined]
    return get_class_from_dynamic_module


def _is_qwen(name: Any, location: dict[str, Any]) -> bool:
    """Whether a checkpoint's config.json has our model_type; False where there is none."""
    try:
        content, _rest = PretrainedConfig.get_config_dict(name, **location)
    except (OSError, ValueError):
        return False
    return bool(content.get("model_type") == QWenConfig.model_type)
