"""The Chinese of what the command line prints: `translate` for sentences, `label` for words of headings and tables.

A message is put together at run time ("/models/a: config.json is missing; download it again"), so it is found by
templates (templates.py), and where none fits as a whole, by its parts: before and after "; ", behind "PLACE: ". Of all
ways, the one that leaves least of the text as it is. What is in no catalogue is shown in English.

    zh/labels.json    words, found by `label` alone: one of them may be the name of a file elsewhere
    zh/help*.json     help of commands and options, paragraph by paragraph
    zh/*.json         everything else
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from qwartet.cli.language.templates import GAP, Template, Templates

FOLDER = Path(__file__).parent / "zh"
_LABELS, _HELP = "labels*.json", "help*.json"
_COMMA = re.compile(r",\s(?!(?:and|or)\s)")
_MAX_CHARS = 2000
_MAX_PARTS = 8
_MAX_DEPTH = 10  # of messages in the gaps of others


class Found(NamedTuple):
    """A translation, how many characters of the text it holds as they were, and the keys that it comes from."""

    text: str
    num_kept: int
    keys: tuple[str, ...]


class Catalogue:
    """Templates by what they are for."""

    def __init__(self, labels: Iterable[Template], helps: Iterable[Template], messages: Iterable[Template]) -> None:
        self._labels = {template.key: template.value for template in labels}
        self._templates = Templates([*messages, *helps])
        self.find = functools.lru_cache(4096)(self._find)

    def label(self, text: str) -> str:
        """A word or two that stand alone."""
        return self._labels.get(text, text)

    def translate(self, text: str) -> str:
        """A sentence, or the text itself."""
        found = self.find(text)
        return text if found is None else found.text

    def _find(self, text: str, depth: int = _MAX_DEPTH) -> Found | None:
        """What keeps least of the text; None for one without a translation, as is a word alone, which may be a name."""
        if " " not in text or len(text) > _MAX_CHARS or not depth:
            return None
        if (bare := text.strip(" ")) != text:  # as in an indented line
            inner = self.find(bare, depth)
            return None if inner is None else inner._replace(text=text.replace(bare, inner.text))
        ways = [self._filled(template, contents, depth) for template, contents in self._templates.matches(text)]
        if not ways or ways[0].num_kept:
            ways += [*self._halves(text, depth), *self._behind_place(text, depth)]
        return min(ways, key=lambda found: found.num_kept, default=None)

    def _filled(self, template: Template, contents: list[str], depth: int) -> Found:
        keys, num_kept, shown = [template.key], 0, []
        num_clauses = len(contents) - template.key.endswith(f": {GAP}")
        for number, content in enumerate(contents):
            words = template.words.get(str(number))
            if words is None:
                found = (self._listed if number in template.lists else self._found)(content, depth - 1)
            else:
                found = Found(words[content], 0, ())
            keys += found.keys
            # A gap that holds several clauses is the worse reading.
            num_kept += found.num_kept + content.count("; ") + (content.count(": ") if number < num_clauses else 0)
            shown.append(found.text)
        return Found(template.fill(shown), num_kept, tuple(keys))

    def _found(self, text: str, depth: int) -> Found:
        return self.find(text, depth) or Found(text, len(text), ())

    def _listed(self, text: str, depth: int) -> Found:
        """The items of "a, b, c", of which each may have a comma of its own."""
        parts = _COMMA.split(text, _MAX_PARTS)
        tail: dict[int, Found] = {}  # by its first part
        for start in reversed(range(len(parts))):
            ways = []
            for end in range(start + 1, len(parts) + 1):
                item = self._found(", ".join(parts[start:end]), depth)
                ways.append(item if end == len(parts) else _joined([item, tail[end]], "、"))
            tail[start] = min(ways, key=lambda found: found.num_kept)
        return tail[0]

    def _halves(self, text: str, depth: int) -> Iterator[Found]:
        """What is wrong; what to do."""
        parts = text.split("; ", _MAX_PARTS)
        for count in range(1, len(parts)):
            halves = [self._found(half, depth - 1) for half in ("; ".join(parts[:count]), "; ".join(parts[count:]))]
            if any(half.keys for half in halves):
                yield _joined(halves, "；")

    def _behind_place(self, text: str, depth: int) -> Iterator[Found]:
        """PLACE: what is wrong there."""
        place, colon, rest = text.partition(": ")
        parts = [self._found(part, depth - 1) for part in (place, rest) if colon]
        if any(part.keys for part in parts):
            yield _joined(parts, "：")


def _joined(parts: list[Found], sign: str) -> Found:
    keys = tuple(key for part in parts for key in part.keys)
    return Found(sign.join(part.text for part in parts), sum(part.num_kept for part in parts), keys)


def read_templates(pattern: str, *excluded: str) -> Iterator[Template]:
    """What the files of this name hold."""
    for path in sorted(FOLDER.glob(pattern)):
        if any(path.match(other) for other in excluded):
            continue
        for key, value in json.loads(path.read_text(encoding="utf-8")).items():
            yield Template(key, value) if isinstance(value, str) else Template(key, *value)


@functools.cache
def chinese() -> Catalogue:
    """The catalogue of the package."""
    return Catalogue(read_templates(_LABELS), read_templates(_HELP), read_templates("*.json", _LABELS, _HELP))


_in_use: Catalogue | None = None


def use_language(language: str) -> None:
    """From here on, "zh" translates; "en" shows all as it is."""
    global _in_use
    _in_use = chinese() if language == "zh" else None


def language_in_use() -> Literal["en", "zh"]:
    """For documents that exist in both."""
    return "en" if _in_use is None else "zh"


def translate(text: str) -> str:
    """A sentence in the language in use."""
    return text if _in_use is None else _in_use.translate(text)


def label(text: str) -> str:
    """A heading, or the word before a value, in the language in use."""
    return text if _in_use is None else _in_use.label(text)


def listed(texts: Iterable[str], sign: str = ", ") -> str:
    """Texts in a row, each of them a sentence or a name, and the sign between them, in the language in use."""
    return label(sign).join(map(translate, texts))
