"""Text made safe to print: control characters become visible signs, so that no text can steer a terminal.

    ESC [ 3 1 m      ␛[31m          C0 controls and DEL: their control pictures, U+2400 to U+2421
    U+009B 3 1 m     �31m           C1 controls, which some terminals obey as they do ESC

A model's answer, a file's name, a key of a stranger's config.json: each may hold an escape sequence that recolours the
screen, rewrites earlier lines, or puts text on the clipboard. Characters are replaced one by one, so text may come in
any pieces.
"""

from __future__ import annotations

import json
import re
from typing import Any, TextIO

_C1 = range(0x80, 0xA0)
_ONE_LINE = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421} | dict.fromkeys(_C1, 0xFFFD)
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_INERT = {code: sign for code, sign in _ONE_LINE.items() if chr(code) not in "\n\t"}
# JSON's own escapes: json.dumps leaves these as they are, and a terminal would not.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (0x7F, *_C1)}


def inert(text: str) -> str:
    """Text whose only control characters are newline and tab."""
    return text.translate(_INERT)


def one_line(text: str) -> str:
    """Text without any control character, newline and tab included."""
    return text.translate(_ONE_LINE)


def whole_text(text: str) -> str:
    """Text that can be encoded: what stands for bytes that are no text, or for half a character, becomes U+FFFD."""
    return _HALF_CHARACTER.sub("\ufffd", text)


def printable(text: str, stream: TextIO) -> str:
    """Text as it may be written to a stream: made inert for a terminal, unchanged for a file or a pipe."""
    return inert(text) if stream.isatty() else text


def json_line(value: Any) -> str:
    """JSON of a value on one line, other scripts as they are, every control character escaped."""
    return json.dumps(value, ensure_ascii=False).translate(_JSON_ESCAPES)
