"""What distinguishes one family of models from another: config.json, names on disk, network, tokenizer, conversations.

A family is data and functions; loading, planning, quantising and inspecting a checkpoint all go through its family. To
add one: a file like qwen1.py, and an entry in families.py.
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
from qwartet.tokenizer.answer_form import AnswerForm
from qwartet.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Family:
    """One family; `model_type` is the value of that key in its config.json."""

    model_type: str
    parse_config: Callable[[Mapping[str, Any], Path], ModelConfig]
    """Takes the content of a config.json and its path, for errors; CheckpointError for missing or wrong values."""
    layout: Callable[[ModelConfig], Layout]
    """Modules, and their names in a checkpoint."""
    build: Callable[[ModelConfig, RotaryTable | None, Backend], QwenModel]
    """The network, with uninitialised parameters."""
    has_tokenizer: Callable[[Path], bool]
    """Whether a directory holds a vocabulary, valid or not."""
    load_tokenizer: Callable[[Path], Tokenizer | None]
    """The tokenizer of a directory; None where there is none, VocabularyError where it is broken."""
    chat_prompt: Callable[..., list[int]]
    """A conversation to prompt ids: signature of tokenizer.chatml.build_prompt."""
    answer_form: Callable[[Any], AnswerForm]
    """How answers are written, from the tokenizer, which has the chat template: tool calls, and thinking."""
    vocabulary_file: str
    """The file to copy into a directory without a tokenizer."""
    jinja_template: Callable[[Any], str | None]
    """The form of a conversation as a Jinja template, for clients that ask for one, from the tokenizer."""
    has_templates: bool = False
    """Whether checkpoints bring a chat template; chat_prompt then is tokenizer.templates.prompt.template_prompt."""
