"""How the answers of a checkpoint are written, as far as families differ: tool calls, and thinking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ToolForm = Literal["none", "react", "tagged"]
"""none: the model's chat template shows no tools; react: react.py; tagged: call_stream.py."""

Thinking = Literal["never", "optional", "always"]
"""Whether an answer begins with thinking; optional: as enable_thinking says."""


@dataclass(frozen=True)
class AnswerForm:
    """The form of a checkpoint's answers."""

    tools: ToolForm
    thinking: Thinking = "never"
