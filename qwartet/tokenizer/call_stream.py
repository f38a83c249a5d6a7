"""An incremental parser of answers that call tools as Qwen2.5 and Qwen3 do, and Hermes before them.

    I look it up.                                               emitted as it arrives
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}      the arguments are emitted as they arrive, as written
    </tool_call>
    <tool_call>                                                 any number of calls
    ...

What is not a call stays text, with its tags. Arguments that were begun are never taken back: if the model writes them
wrong, they end at the next tag, and need not be valid JSON. A tag inside a string is part of the string, unless the
string cannot be valid JSON. Keys in another order, and arguments in a string, are read too, once the call is complete;
further keys are dropped. A closing tag may be missing.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.json_object import JsonObject
from qwartet.tokenizer.react_stream import MAX_NAME_CHARS
from qwartet.tokenizer.thinking import num_begun
from qwartet.tokenizer.trimmed import Trimmed

CALL, END_CALL = "<tool_call>", "</tool_call>"

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.ASCII
)
_MAX_HEAD_CHARS = 6 * MAX_NAME_CHARS + 128  # a letter may be written as an escape of six; and some whitespace


class CallStream:
    """Takes an answer in pieces and emits the part that is certain; constant work per character.

    Held back are the beginning of each call up to its arguments, whitespace that may be trailing, and characters that
    may become a tag. With `only_first`, nothing is emitted after the first call.
    """

    def __init__(self, only_first: bool = False) -> None:
        self.num_calls = 0
        self._only_first = only_first
        self._mode: Literal["text", "head", "arguments", "tail", "end"] = "text"
        self._held = ""  # may become a tag
        self._text = Trimmed()
        self._deltas: list[AnswerDelta] = []
        # Of the call that is being read:
        self._raw: list[str] = []  # since its tag; then since the end of its arguments
        self._num_raw = 0
        self._whole, self._arguments = JsonObject(), JsonObject()
        self._trimmed = Trimmed()

    def feed(self, text: str) -> list[AnswerDelta]:
        """What becomes certain with one more piece of the output."""
        text, self._held = self._held + text, ""
        place = 0
        while place < len(text):
            if self._mode == "text":
                place = self._in_text(text, place)
            elif self._mode == "head":
                place = self._in_head(text, place)
            elif self._mode == "arguments":
                place = self._in_arguments(text, place)
            elif self._mode == "tail":
                place = self._in_tail(text, place)
            else:
                break
        return self._released()

    def finish(self) -> list[AnswerDelta]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        if self._mode == "text":
            self._emit(self._text.push(held))
        elif self._mode == "head":
            self._give_up(held)
        elif self._mode == "arguments":
            self._emit(arguments=self._trimmed.push(held))
        elif self._mode == "tail":
            self._keep(held)
            self._end_call()
        self._mode = "end"
        return self._released()

    # Each reads from `place` on, and returns where the next begins. What may become a tag goes to _held.

    def _in_text(self, text: str, place: int) -> int:
        start = text.find(CALL, place)
        if start >= 0:
            self._emit(self._text.push(text[place:start]))
            self._begin("head")
            self._whole = JsonObject()
            return start + len(CALL)
        end = len(text) - num_begun(text[place:], CALL)
        self._held = text[end:]
        self._emit(self._text.push(text[place:end]))
        return len(text)

    def _in_head(self, text: str, place: int) -> int:
        if self._num_raw <= _MAX_HEAD_CHARS:
            so_far = "".join(self._raw)
            window = so_far + text[place : place + _MAX_HEAD_CHARS + 1]
            found = _HEAD.match(window)
            if found is not None and found.end() <= _MAX_HEAD_CHARS and (name := _name(found[1])) is not None:
                self._begin_call(name, "arguments")
                return place + found.end() - len(so_far)
        stop = self._whole.advance(text, place)
        self._keep(text[place:stop])
        if self._whole.is_closed:
            call = _call("".join(self._raw))
            if call is None:
                self._give_up("")
            else:
                self._begin_call(call[0], "tail")
                self._emit(arguments=call[1])
            return stop
        if stop == len(text):
            return stop
        tag = self._tag(text, stop)
        if tag is None:
            self._whole.skip()
            self._keep("<")
            return stop + 1
        if tag:
            self._give_up("")
            return stop  # in the text: </tool_call> is part of it, <tool_call> begins a call
        return len(text)

    def _in_arguments(self, text: str, place: int) -> int:
        stop = self._arguments.advance(text, place)
        self._emit(arguments=self._trimmed.push(text[place:stop]))
        if self._arguments.is_closed:
            self._begin("tail")
        elif stop < len(text):
            tag = self._tag(text, stop)
            if tag is None:
                self._arguments.skip()
                self._emit(arguments=self._trimmed.push("<"))
                return stop + 1
            if not tag:
                return len(text)
            self._begin("tail")
        return stop

    def _in_tail(self, text: str, place: int) -> int:
        start = text.find("<", place)
        if start < 0:
            self._keep(text[place:])
            return len(text)
        self._keep(text[place:start])
        tag = self._tag(text, start)
        if tag is None:
            self._keep("<")
            return start + 1
        if tag:
            self._end_call()
            return start + (len(tag) if tag == END_CALL else 0)
        return len(text)

    def _tag(self, text: str, place: int) -> str | None:
        """The tag that begins here; empty, and held back, where it is unfinished; None where it is none."""
        for tag in (END_CALL, CALL):
            if text.startswith(tag, place):
                return tag
        if len(text) - place < len(END_CALL) and any(tag.startswith(text[place:]) for tag in (END_CALL, CALL)):
            self._held = text[place:]
            return ""
        return None

    # Changes of mode

    def _begin(self, mode: Literal["head", "tail"]) -> None:
        self._mode = mode
        self._raw, self._num_raw = [], 0

    def _keep(self, text: str) -> None:
        self._raw.append(text)
        self._num_raw += len(text)

    def _begin_call(self, name: str, mode: Literal["arguments", "tail"]) -> None:
        self._text.begin_paragraph()
        self._emit(name=name)
        self.num_calls += 1
        self._mode, self._raw, self._num_raw = mode, [], 0
        self._arguments, self._trimmed = JsonObject(), Trimmed()

    def _give_up(self, held: str) -> None:
        """What came since the tag is not a call: it is ordinary text."""
        self._mode = "text"
        self._emit(self._text.push("".join([CALL, *self._raw, held])))

    def _end_call(self) -> None:
        """Drops the end of a call; anything else that stands there is text."""
        self._mode = "end" if self._only_first else "text"
        rest = "".join(self._raw).strip()
        if not self._only_first and not _is_end(rest):
            self._emit(self._text.push(rest.removeprefix("}")))

    def _emit(self, text: str = "", name: str | None = None, arguments: str = "") -> None:
        if text or name is not None or arguments:
            self._deltas.append(AnswerDelta(text, name, arguments))

    def _released(self) -> list[AnswerDelta]:
        """Deltas of the same kind as one."""
        deltas, self._deltas = self._deltas, []
        merged: list[AnswerDelta] = []
        for delta in deltas:
            last = merged[-1] if merged else AnswerDelta(name="")
            if delta.name is None and last.name is None and bool(delta.text) == bool(last.text):
                merged[-1] = AnswerDelta(last.text + delta.text, None, last.arguments + delta.arguments)
            else:
                merged.append(delta)
        return merged


def _name(written: str) -> str | None:
    """The name in a JSON string; None if it is none of a tool."""
    try:
        name = json.loads(written)
    except ValueError:
        return None
    return name if _is_name(name) else None


def _is_name(name: Any) -> bool:
    is_short = isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS and "\n" not in name
    return is_short and name.isprintable() and bool(name.strip())


def _call(written: str) -> tuple[str, str] | None:
    """Name and arguments of a complete call; None if it is none."""
    value = _json(written)
    if not isinstance(value, dict) or not _is_name(value.get("name")):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        return value["name"], arguments
    return (value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _is_end(rest: str) -> bool:
    """Whether this may follow the arguments of a call, or a call, before the closing tag."""
    return rest in ("", "}") or (rest.startswith(",") and isinstance(_json(f'{{"":0{rest}'), dict))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
