"""Lines and columns of text in which a Chinese character takes two places of a terminal."""

from __future__ import annotations

import re
from unicodedata import combining, east_asian_width

_OPENS = "（“‘《「【"
_CLOSES = r"，。；：、！？）”’》」】…)\]"
_WIDE = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
# Never broken: [...] without spaces; a word or a Chinese character, with signs that may not begin or end a line.
_UNIT = re.compile(
    rf"\s+|\[[^\s\[\]]*\]|[{_OPENS}]*(?:[^\s{_WIDE}{_OPENS}{_CLOSES}]+|[{_WIDE}])[{_CLOSES}]*|[{_OPENS}{_CLOSES}]+"
)


def width_of(text: str) -> int:
    """Places that a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def padded(text: str, width: int) -> str:
    """A text with spaces behind it up to a width, like f"{text:<{width}}"."""
    return text + " " * (width - width_of(text))


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a paragraph, broken at spaces and between Chinese characters; at least one line."""
    lines, line = [], ""
    for unit in _UNIT.findall(text):
        if line and width_of(line + unit.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        while width_of(unit) > width:  # such as a path
            cut = max(size for size in range(1, len(unit)) if size == 1 or width_of(unit[:size]) <= width)
            lines.append(unit[:cut])
            unit = unit[cut:]
        if line or not unit.isspace():
            line += unit
    return [*lines, line.rstrip()] if line or not lines else lines
