"""Conversations and texts in the common forms of training data, from JSON or JSON lines.

    {"messages": [{"role": "user", "content": "..."}, ...]}                  also with a "system" beside it
    {"conversations": [{"from": "human", "value": "..."}, ...]}              ShareGPT, and the published fine-tuning
    {"instruction": "...", "input": "...", "output": "..."}                  Alpaca; also with "history", "system"
    {"prompt": "...", "completion": "..."}, "query" and "response", ...      one question and its answer
    {"text": "..."}                                                          a text

A record in any other form is rejected with its line and its keys: as raw text it would calibrate on braces and quotes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.errors import CheckpointError, RequestError
from qwartet.tokenizer.chatml import Message

Record = list[Message] | str
"""A conversation, or a text."""

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
    "bot": "assistant",
}  # fmt: skip
_PAIRS = (
    ("instruction", ("output", "response", "completion", "answer")),
    ("prompt", ("completion", "response", "output", "answer")),
    ("query", ("response", "answer")),
    ("question", ("answer", "response")),
    ("input", ("output",)),
    ("user", ("assistant",)),
    ("human", ("assistant",)),
)
"""The keys of a question, and those of its answer."""

_KNOWN = "messages, conversations, instruction and output, prompt and completion, or text"


class FormError(ValueError):
    """A record in none of the forms; the message says what is wrong with it."""


def parse_records(content: str, file: Path) -> list[Record] | None:
    """The records of a file; None where it is plain text. CheckpointError with the line or entry of a wrong record."""
    entries = json_entries(content, file)
    return None if entries is None else [_record(entry, where, file) for where, entry in entries]


def json_entries(content: str, file: Path) -> list[tuple[str, Any]] | None:
    """The place ("entry 0", "line 1") and content of each record of a JSON list, an object, or JSON lines.

    None where the file is plain text; CheckpointError for broken JSON.
    """
    whole, error = _parsed(content)
    if isinstance(whole, list):
        return [(f"entry {number}", entry) for number, entry in enumerate(whole)]
    lines = [(number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    first = _parsed(lines[0][1])[0] if lines else None
    is_lines = isinstance(first, dict) and len(lines) > 1
    is_json = file.suffix.lower() in JSON_SUFFIXES
    if isinstance(whole, dict) and not is_lines:
        return [("the object", whole)]
    if not (is_lines or (is_json and isinstance(first, dict | list | str))):
        if not is_json:
            return None
        reason = f"is not valid JSON ({error})" if error else f"holds a JSON {type(whole).__name__}"
        raise CheckpointError(file, reason, hint="write a list of conversations, or one per line")
    entries = []
    for number, line in lines:
        entry, error = _parsed(line)
        if error is not None:
            hint = "fix the line" if is_json else "fix it, or put another line first if this is plain text"
            raise CheckpointError(file, f"line {number} is not valid JSON ({error})", hint=hint)
        entries.append((f"line {number}", entry))
    return entries


def _parsed(text: str) -> tuple[Any, Exception | None]:
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:
        return None, error


def _record(entry: Any, where: str, file: Path) -> Record:
    try:
        return record_of(entry)
    except FormError as error:
        hint = f"supported keys are {_KNOWN}"
        raise CheckpointError(file, f"{where}: {error}", hint=hint) from None


def record_of(entry: Any) -> Record:
    """A conversation or text in one of the forms; FormError for anything else."""
    try:
        if isinstance(entry, str):
            return entry
        return _turns(entry) if isinstance(entry, list) else _of_object(entry)
    except RequestError as error:
        raise FormError(str(error)) from None


def _of_object(entry: Any) -> Record:
    if not isinstance(entry, Mapping):
        raise FormError(f"is {entry!r:.80}, not an object")
    system = [Message("system", _text(entry, "system"))] if entry.get("system") else []
    for key in ("messages", "conversations", "conversation"):
        if entry.get(key) is not None:
            return _with_system(system, _turns(entry[key], key))
    for question, answers in _PAIRS:
        answer = next((key for key in answers if entry.get(key) is not None), None)
        if entry.get(question) is None or answer is None:
            continue
        if isinstance(entry[question], list):  # turns up to the answer, which may be turns too
            rest = entry[answer]
            rest = _turns(rest, answer) if isinstance(rest, list) else [Message("assistant", _text(entry, answer))]
            return _with_system(system, _turns(entry[question], question) + rest)
        asked = _text(entry, question)
        if question == "instruction" and entry.get("input"):
            asked += "\n" + _text(entry, "input")
        turns = [*_history(entry), Message("user", asked), Message("assistant", _text(entry, answer))]
        return _with_system(system, turns)
    for key in ("text", "content"):
        if entry.get(key) is not None and not system:
            return _text(entry, key)
    keys = ", ".join(f"{key!r:.40}" for key in list(entry)[:10]) or "none"
    raise FormError(f"is in no known form; its keys are {keys}")


def _with_system(system: list[Message], turns: list[Message]) -> list[Message]:
    if system and turns[0].role == "system":
        raise FormError("has both a system key and a system turn")
    return system + turns


def _text(entry: Mapping[str, Any], key: str) -> str:
    if not isinstance(entry[key], str):
        raise FormError(f"{key} is {entry[key]!r:.80}, not a text")
    return str(entry[key])


def _history(entry: Mapping[str, Any]) -> list[Message]:
    """Earlier turns beside an instruction: [[question, answer], ...]."""
    history = entry.get("history") or []
    is_pairs = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not is_pairs or not all(isinstance(text, str) for pair in history for text in pair):
        raise FormError(f"history is {history!r:.80}, not a list of [question, answer]")
    return [Message(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]


def _turns(turns: Any, key: str = "conversation") -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise FormError(f"{key} is {turns!r:.80}, not a list of turns")
    messages = [_turn(turn, number) for number, turn in enumerate(turns, start=1)]
    for number, message in enumerate(messages[1:], start=2):
        if message.role == "system":
            raise FormError(f"turn {number}: a system turn is not the first")
    return messages


def _turn(turn: Any, number: int) -> Message:
    name = content = None
    if isinstance(turn, Mapping):
        name, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(name, str) or name.lower() not in _ROLES:
        forms = '{"role": "user", "content": text} or {"from": "human", "value": text}'
        raise FormError(f"turn {number} is not {forms}, of a system, user or assistant, but {turn!r:.80}")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text")) for part in content)
    if not isinstance(content, str):
        raise FormError(f"turn {number}, of {name}, has the content {content!r:.80}, not a text")
    return Message(_ROLES[name.lower()], content)
