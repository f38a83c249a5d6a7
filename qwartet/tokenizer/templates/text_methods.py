"""The methods of texts that a template may call. They keep the marks, and are charged before they do anything.

Missing are those that build texts by rules of their own (format, ljust, translate, expandtabs, ...): no published
template of a Qwen needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qwartet.tokenizer.templates.budget import Budget
from qwartet.tokenizer.templates.failure import TemplateFailure
from qwartet.tokenizer.templates.traced import joined, piece, remarked


def strip(budget: Budget, text: str, chars: str | None = None) -> str:
    """text.strip(chars)."""
    return rstrip(budget, lstrip(budget, text, chars), chars)


def lstrip(budget: Budget, text: str, chars: str | None = None) -> str:
    """text.lstrip(chars)."""
    budget.make(len(text))
    budget.search(text, chars or "", backwards=True)
    return piece(text, len(text) - len(text.lstrip(chars)), None)


def rstrip(budget: Budget, text: str, chars: str | None = None) -> str:
    """text.rstrip(chars)."""
    budget.make(len(text))
    budget.search(text, chars or "", backwards=True)
    return piece(text, None, len(text.rstrip(chars)))


def split(budget: Budget, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    """text.split(sep, maxsplit)."""
    budget.search(text, sep or " ")
    _charge_pieces(budget, text, sep)
    return _located(text, text.split(sep, maxsplit), len(sep or ""))


def rsplit(budget: Budget, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    """text.rsplit(sep, maxsplit)."""
    budget.search(text, sep or " ", backwards=True)
    _charge_pieces(budget, text, sep)
    return _located(text, text.rsplit(sep, maxsplit), len(sep or ""))


def splitlines(budget: Budget, text: str, keepends: bool = False) -> list[str]:
    """text.splitlines(keepends)."""
    budget.make(len(text), len(text) // 8 + 1)
    lines = text.splitlines(keepends=True)
    budget.make(0, len(lines))
    found, place = [], 0
    for line in lines:
        kept = line if keepends else line.splitlines()[0]
        found.append(piece(text, place, place + len(kept)))
        place += len(line)
    return found


def _charge_pieces(budget: Budget, text: str, sep: str | None) -> None:
    """The pieces of a split: as many as separators, or about half as many as characters."""
    num_pieces = text.count(sep) + 1 if sep else len(text) // 2 + 1
    budget.make(len(text), num_pieces)


def _located(text: str, pieces: list[str], sep_length: int) -> list[str]:
    """The pieces of a text, found in it one after the other, so that they carry its marks."""
    found, place = [], 0
    for part in pieces:
        if not sep_length:  # separated by whitespace, of which the last piece may contain some
            place = text.index(part, place) if part else place
        found.append(piece(text, place, place + len(part)))
        place += len(part) + sep_length
    return found


def partition(budget: Budget, text: str, sep: str) -> tuple[str, str, str]:
    """text.partition(sep)."""
    budget.search(text, sep)
    budget.make(len(text), 3)
    head, middle, _ = text.partition(sep)
    return _three(text, len(head), len(head) + len(middle))


def rpartition(budget: Budget, text: str, sep: str) -> tuple[str, str, str]:
    """text.rpartition(sep)."""
    budget.search(text, sep, backwards=True)
    budget.make(len(text), 3)
    head, middle, _ = text.rpartition(sep)
    return _three(text, len(head), len(head) + len(middle))


def _three(text: str, first: int, second: int) -> tuple[str, str, str]:
    return piece(text, 0, first), piece(text, first, second), piece(text, second, None)


def replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    """text.replace(old, new, count)."""
    if not (isinstance(old, str) and isinstance(new, str) and isinstance(count, int)):
        raise TemplateFailure("replace needs two texts")
    if not old:
        raise TemplateFailure("the text to replace is empty")
    budget.search(text, old)
    found = text.count(old)
    found = min(found, count) if count >= 0 else found
    budget.make(len(text) + found * len(new), 2 * found + 1)
    return joined(_located(text, text.split(old, found), len(old)), new)


def join(budget: Budget, text: str, parts: Any) -> str:
    """text.join(parts)."""
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise TemplateFailure("join needs a list of texts")
    budget.make(sum(map(len, parts)) + len(text) * len(parts), len(parts))
    return joined(parts, text)


def removeprefix(budget: Budget, text: str, prefix: str) -> str:
    """text.removeprefix(prefix)."""
    budget.make(len(text))
    return piece(text, len(prefix), None) if text.startswith(prefix) else text


def removesuffix(budget: Budget, text: str, suffix: str) -> str:
    """text.removesuffix(suffix)."""
    budget.make(len(text))
    return piece(text, None, len(text) - len(suffix)) if suffix and text.endswith(suffix) else text


def _changing(method: Callable[[str], str]) -> Callable[..., str]:
    """A method that changes characters one by one."""

    def changed(budget: Budget, text: str) -> str:
        budget.make(3 * len(text))  # one character becomes three at most
        return remarked(method(text), text)

    return changed


def _asking(method: Callable[[str], bool]) -> Callable[..., bool]:
    """A method that says what the characters are."""

    def asked(budget: Budget, text: str) -> bool:
        budget.read(len(text))
        return method(text)

    return asked


def _finding(method: Callable[..., Any], *, backwards: bool = False) -> Callable[..., Any]:
    """A method that looks for a text."""

    def found(budget: Budget, text: str, wanted: Any, *places: int) -> Any:
        for one in wanted if isinstance(wanted, tuple) else (wanted,):
            if not isinstance(one, str):
                raise TemplateFailure("only a text can be looked for in a text")
            budget.search(text, one, backwards=backwards)
        return method(text, wanted, *places)

    return found


TEXT_METHODS: dict[str, Callable[..., Any]] = {
    "strip": strip,
    "lstrip": lstrip,
    "rstrip": rstrip,
    "split": split,
    "rsplit": rsplit,
    "splitlines": splitlines,
    "partition": partition,
    "rpartition": rpartition,
    "replace": replace,
    "join": join,
    "removeprefix": removeprefix,
    "removesuffix": removesuffix,
    **{name: _changing(getattr(str, name)) for name in ("lower", "upper", "title", "capitalize", "casefold")},
    **{
        name: _asking(getattr(str, name))
        for name in (
            "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle",
            "isupper",
        )
    },
    **{name: _finding(getattr(str, name)) for name in ("startswith", "endswith", "find", "index", "count")},
    **{name: _finding(getattr(str, name), backwards=True) for name in ("rfind", "rindex")},
}  # fmt: skip
"""Methods by name; each takes the budget, the text, and the arguments of the call."""
