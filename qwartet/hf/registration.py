"""Tells transformers of the classes for model_type "qwen", so that its Auto classes find them.

A registered class takes precedence over code that comes with a checkpoint, also with trust_remote_code=True. For a
tokenizer that holds only if it is found by its name, tokenizer_class in tokenizer_config.json; therefore it is
registered under a configuration of its own (auto/tokenization_auto.py of transformers, explicit_local_code).
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from qwartet.hf.config import QWenConfig
from qwartet.hf.model import QWenLMHeadModel


def register() -> None:
    """Registers everything; a second call changes nothing."""
    AutoConfig.register("qwen", QWenConfig, exist_ok=True)
    AutoModelForCausalLM.register(QWenConfig, QWenLMHeadModel, exist_ok=True)
