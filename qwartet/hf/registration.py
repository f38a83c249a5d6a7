"""Tells transformers of the classes for model_type "qwen", so that its Auto classes find them, and guards them.

A registered class takes precedence over code that comes with a checkpoint, also with trust_remote_code=True. For a
tokenizer that holds only if it is found by its name, tokenizer_class in tokenizer_config.json; therefore it is
registered under a configuration of its own (auto/tokenization_auto.py of transformers, explicit_local_code). Where a
file names code and no class that is registered, transformers would run the code if told to trust it: the guard refuses
it for every checkpoint of a first-generation Qwen. Other models are not touched.
"""

from __future__ import annotations

import functools
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, dynamic_module_utils

from qwartet.errors import SettingError
from qwartet.hf.config import QWenConfig
from qwartet.hf.model import QWenLMHeadModel
from qwartet.hf.tokenizer import QWenTokenizer

_LOCATION = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")


class TokenizerKey(PretrainedConfig):  # type: ignore[misc]
    """The configuration under which the tokenizer is registered; nothing else has it."""

    model_type = "qwartet_tokenizer"


def register() -> None:
    """Registers everything; a second call changes nothing."""
    AutoConfig.register("qwen", QWenConfig, exist_ok=True)
    AutoModelForCausalLM.register(QWenConfig, QWenLMHeadModel, exist_ok=True)
    AutoTokenizer.register(TokenizerKey, tokenizer_class=QWenTokenizer, exist_ok=True)
    fetch = dynamic_module_utils.get_cached_module_file
    if not hasattr(fetch, "is_guarded_by_qwartet"):
        dynamic_module_utils.get_cached_module_file = _guarded(fetch)


def _guarded(fetch: Any) -> Any:
    """transformers' function through which all code of checkpoints passes, with a refusal for ours."""

    @functools.wraps(fetch)
    def get_cached_module_file(name: Any, module_file: str, *args: Any, **kwargs: Any) -> Any:
        if _is_qwen(name, {key: kwargs[key] for key in _LOCATION if key in kwargs}):
            raise SettingError(
                f"{name}: {module_file} is code that comes with the checkpoint, which is never executed; "
                'if it stands for the tokenizer, add "tokenizer_class": "QWenTokenizer" to tokenizer_config.json'
            )
        return fetch(name, module_file, *args, **kwargs)

    get_cached_module_file.is_guarded_by_qwartet = True  # type: ignore[attr-defined]
    return get_cached_module_file


def _is_qwen(name: Any, location: dict[str, Any]) -> bool:
    """Whether a checkpoint's config.json has our model_type; False where there is none."""
    try:
        content, _rest = PretrainedConfig.get_config_dict(name, **location)
    except (OSError, ValueError):
        return False
    return content.get("model_type") == QWenConfig.model_type
