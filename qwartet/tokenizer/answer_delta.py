"""One step of an answer that is read as it is generated: what react_stream.py, call_stream.py and thinking.py emit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerDelta:
    """More of an answer, of one kind: text, reasoning, the beginning of a call, or arguments of the last call."""

    text: str = ""
    name: str | None = None
    arguments: str = ""
    reasoning: str = ""
