"""What sets one family of models apart from another: config.json, names on disk, network, tokenizer, conversations.

A family is data and functions; whoever loads, plans, quantises or inspects a checkpoint asks its family and nobody
else. To add one: a file like qwen1.py, and an entry in families.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.checkpoint.layout import Layout
from qwartet.kernels.backend import Backend
from qwartet.layers.rotary import RotaryTable
from qwartet.models.config import ModelConfig
from qwartet.models.qwen import QwenModel
from qwartet.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Family:
    """One family; `model_type` is the value of that key in its config.json."""

    model_type: str
    parse_config: Callable[[Mapping[str, Any], Path], ModelConfig]
    """The content of a config.json and its path, for errors; CheckpointError for what is missing or wrong."""
    layout: Callable[[ModelConfig], Layout]
    """Modules, and the names that a checkpoint holds them under."""
    build: Callable[[ModelConfig, RotaryTable | None, Backend], QwenModel]
    """The network, its parameters uninitialised."""
    has_tokenizer: Callable[[Path], bool]
    """Whether a directory holds a vocabulary, whatever is in it."""
    load_tokenizer: Callable[[Path], Tokenizer | None]
    """The tokenizer of a directory; None where it holds none, VocabularyError where it is broken."""
    chat_prompt: Callable[..., list[int]]
    """A conversation to prompt ids: signature of tokenizer.chatml.build_prompt."""
