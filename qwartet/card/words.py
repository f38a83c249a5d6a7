"""The few words of tables in Chinese; texts of the card itself are in its templates."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from qwartet.card.table import Language


@cache
def _chinese() -> dict[str, str]:
    found: dict[str, str] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
    return found


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Words with a part that changes, in braces."""
    return [
        (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(english))), chinese)
        for english, chinese in _chinese().items()
        if "{" in english
    ]


def word(text: str, language: Language) -> str:
    """A word of a table in a language; one that has no Chinese stays as it is."""
    if language == "en":
        return text
    if text in _chinese():
        return _chinese()[text]
    for pattern, chinese in _patterns():
        if found := pattern.fullmatch(text):
            return chinese.format(**{name: word(part, language) for name, part in found.groupdict().items()})
    return text
