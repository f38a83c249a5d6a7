"""A file of conversations to train on, checked as a whole before a model is loaded.

    [{"id": "a", "conversations": [{"from": "user", "value": "..."}, {"from": "assistant", "value": "..."}]}, ...]

is the published form; the others of quantize/calibration_records.py, such as {"messages": [...]}, and JSON lines are
read too. A first turn that is not the user's is dropped, as in the published script; from there on the user and the
assistant must alternate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import cannot_read, has_file
from qwartet.errors import DataError
from qwartet.files import decode_text
from qwartet.quantize.calibration_records import FormError, json_entries, record_of
from qwartet.tokenizer.chatml import Message

MAX_SHOWN = 5


@dataclass(frozen=True)
class Conversation:
    """One sample; `name` is its id in the file, else its place there ("entry 3", "line 4")."""

    name: str
    messages: list[Message]


def read_conversations(file: Path) -> list[Conversation]:
    """All conversations of a file; DataError with the samples and turns that are wrong."""
    found, problems = [], []
    entries = read_entries(file)
    for where, name, entry in entries:
        try:
            found.append(Conversation(name, _checked(entry)))
        except FormError as error:
            problems.append(f"{where}: {error}")
    report_problems(file, problems, len(entries))
    return found


def read_entries(file: Path) -> list[tuple[str, str, Any]]:
    """The samples of a JSON or JSON lines file: place with id, for messages; id, or else place; content.

    DataError if it cannot be read or holds none.
    """
    if not has_file(file):
        raise DataError(file, "does not exist", hint="check the path")
    try:
        content = decode_text(file.read_bytes())
    except ValueError as error:
        raise DataError(file, str(error)) from None
    except OSError as error:
        raise cannot_read(file, error) from None
    entries = json_entries(content, file)
    if entries is None:
        raise DataError(file, "is plain text", hint="write a JSON list of conversations, or one per line (.jsonl)")
    if not entries:
        raise DataError(file, "holds no conversation")
    found = []
    for place, entry in entries:
        name = entry.get("id") if isinstance(entry, Mapping) else None
        where = place if name is None else f"{place} (id {name!r:.40})"
        found.append((where, where if name is None else str(name), entry))
    return found


def report_problems(file: Path, problems: Sequence[str], num_samples: int) -> None:
    """DataError with the first few problems, if there are any."""
    if not problems:
        return
    shown = "; ".join(problems[:MAX_SHOWN])
    raise DataError(file, shown, hint=f"fix or remove these: {len(problems)} of {num_samples} samples are wrong")


def _checked(entry: Any) -> list[Message]:
    messages = record_of(entry)
    if isinstance(messages, str):
        raise FormError("is a text, not a conversation")
    if problem := next(problems_of(messages), None):
        raise FormError(problem)
    return messages


def problems_of(messages: Sequence[Message]) -> Iterator[str]:
    """What is wrong with the turns, counted from 1 as in the file."""
    turns = list(enumerate(messages, start=1))
    if turns[0][1].role == "system":
        del turns[0]
    if turns and turns[0][1].role != "user":
        del turns[0]
    for number, turn in turns:
        if not turn.content.strip():
            yield f"turn {number}, of {turn.role}, is empty"
    for (_, one), (number, other) in pairwise(turns):
        if one.role == other.role:
            yield f"turn {number}, of {other.role}, follows another turn of {one.role}"
    if not any(turn.role == "assistant" for _, turn in turns):
        yield "has no answer of the assistant to learn"
