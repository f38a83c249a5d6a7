"""An incremental parser of model output in the ReAct format (react.py).

    Thought: I need the weather.          held back: it belongs to a call, or is dropped before an answer
    Action: get_weather                   held back until the next line begins
    Action Input: {"city": "Oslo"}        a call begins; its arguments are emitted as they arrive
    Observation: ...                      and end here

    Final Answer: It rains.               emitted as it arrives
    It rains.                             so is text that is not in the format

A marker counts only at the beginning of a line. The first one wins: nothing after a call or `Final Answer:` is read as
a call. So emitted text never has to be taken back, and `parse_react`, which reads a complete text, gives the same.
The original server looked for the last `Final Answer:`, and for a call even after one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.trimmed import Trimmed

MAX_NAME_CHARS = 64  # a longer line after `Action:` is not a tool name
MARKERS = ("Thought", "Action", "Action Input", "Observation", "Final Answer")

ReactPart = Literal["start", "thought", "answer"]

_MARKER = re.compile(rf"\n({'|'.join(MARKERS)}):")
_MARKER_TEXTS = tuple(f"\n{name}:" for name in MARKERS)
_LONGEST_START = max(map(len, _MARKER_TEXTS)) - 1


@dataclass(frozen=True)
class ReactReply:
    """What the model wrote: a tool call (`name` is set, `text` is the thought) or an answer (`text` alone)."""

    text: str
    name: str | None = None
    arguments: str = ""

    @property
    def is_call(self) -> bool:
        """Whether the model calls a tool."""
        return self.name is not None


def parse_react(output: str, begins_in: ReactPart = "start") -> ReactReply:
    """The first tool call in a model's output, else its final answer, else the output; each stripped of whitespace.

    Pass only model output: a prompt with these markers must not become a call. `begins_in` says where the prompt ended:
    after the assistant's role, `Thought:` or `Final Answer:`. Linear in the text.
    """
    stream = ReactStream(begins_in)
    deltas = stream.feed(output) + stream.finish()
    name = next((delta.name for delta in deltas if delta.name is not None), None)
    return ReactReply("".join(delta.text for delta in deltas), name, "".join(delta.arguments for delta in deltas))


class ReactStream:
    """Takes a model's output in pieces and emits the part of the reply that is certain; constant work per character.

    Held back are the thought, the line of an `Action:`, whitespace that may be trailing, and before an answer at most
    13 characters that may become a marker.
    """

    def __init__(self, begins_in: ReactPart = "start") -> None:
        self.is_call = False  # whether a call has begun
        self._mode: Literal["start", "thought", "answer", "name", "arguments", "end"] = begins_in
        self._mode_before_name: Literal["start", "thought"] = "start"
        self._tail = "\n" if begins_in == "start" else ""  # may become a marker; the text itself begins a line
        self._thought: list[str] = []  # as written, with its marker
        self._name = ""
        self._text = Trimmed()
        self._arguments = Trimmed()
        self._certain: list[str] = []  # text of the reply, not emitted yet
        self._deltas: list[AnswerDelta] = []

    def feed(self, text: str) -> list[AnswerDelta]:
        """What becomes certain with one more piece of the output."""
        text = self._tail + text
        done = 0
        while self._reads_markers and (marker := _MARKER.search(text, done)):
            self._take(text[done : marker.start()])
            self._mark(marker[0])
            done = marker.end()
        num_held = _num_held(text) if self._reads_markers else 0
        end = max(len(text) - num_held, done)
        self._take(text[done:end])
        self._tail = text[end:]
        return self._released()

    def finish(self) -> list[AnswerDelta]:
        """What was held back, now that nothing follows."""
        self._take(self._tail)
        self._tail = ""
        if self._mode == "name":
            self._give_up_name()
        if self._mode == "thought":
            self._certain.append(self._text.push("".join(self._thought)))
        self._mode = "end"
        return self._released()

    @property
    def _reads_markers(self) -> bool:
        return self._mode not in ("answer", "end")

    def _take(self, text: str) -> None:
        """Consumes text without a marker, or with one that has no meaning here."""
        if self._mode in ("start", "answer"):
            self._certain.append(self._text.push(text))
        elif self._mode == "thought":
            self._thought.append(text)
        elif self._mode == "arguments":
            self._certain.append(self._arguments.push(text))
        elif self._mode == "name":
            self._name += text
            if "\n" in text or len(self._name) > MAX_NAME_CHARS + 8:  # allows for spaces around it
                self._give_up_name()

    def _mark(self, marker: str) -> None:
        name = self._name.strip(" \t\r")
        if self._mode == "name" and marker == "\nAction Input:" and 0 < len(name) <= MAX_NAME_CHARS:
            self._begin_call(name)
            return
        if self._mode == "name":
            self._give_up_name()
        if self._mode in ("start", "thought") and marker == "\nAction:":
            self._mode_before_name = "start" if self._mode == "start" else "thought"
            self._mode, self._name = "name", ""
        elif self._mode in ("start", "thought") and marker == "\nFinal Answer:":
            self._mode = "answer"
            self._text.begin_paragraph()
        elif self._mode == "start" and marker == "\nThought:":
            self._mode, self._thought = "thought", [marker]
        elif self._mode == "arguments" and marker == "\nObservation:":
            self._mode = "end"
        else:
            self._take(marker)

    def _begin_call(self, name: str) -> None:
        self._text.begin_paragraph()
        self._certain.append(self._text.push("".join(self._thought).removeprefix("\nThought:").strip()))
        self._deltas = [*self._released(), AnswerDelta(name=name)]
        self._mode, self.is_call = "arguments", True

    def _give_up_name(self) -> None:
        """The text after an `Action:` is not a tool name: it is ordinary text."""
        self._mode = self._mode_before_name
        self._take(f"\nAction:{self._name}")

    def _released(self) -> list[AnswerDelta]:
        text = "".join(self._certain)
        self._certain = []
        deltas, self._deltas = self._deltas, []
        if text:
            deltas.append(AnswerDelta(arguments=text) if self.is_call else AnswerDelta(text=text))
        return deltas


def _num_held(text: str) -> int:
    """How many of the last characters may become a marker."""
    start = text.rfind("\n", max(len(text) - _LONGEST_START, 0))
    if start < 0 or not any(marker.startswith(text[start:]) for marker in _MARKER_TEXTS):
        return 0
    return len(text) - start
