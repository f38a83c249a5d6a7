"""Makes text safe to show: no character controls a terminal, and one line stays one line, of bounded length.

    ESC [ 3 1 m      ␛[31m          C0 controls and DEL: their control pictures, U+2400 to U+2421
    U+009B 3 1 m     �31m           C1 controls, which some terminals obey as they do ESC
    U+202E d m p     �dmp           overrides and isolates of the writing direction, separators of lines and paragraphs

Answers of a model, file names, keys of an untrusted config.json, messages of a hub: each may contain an escape sequence
that recolours the screen, rewrites earlier lines, or puts text on the clipboard. Characters are replaced one by one, so
text may arrive in any pieces.
"""

from __future__ import annotations

import json
from typing import Any

MAX_LINE_CHARS = 8000
MAX_ERROR_CHARS = 1000
_TAIL_CHARS = 300  # of a shortened line: errors say at their end what to do

_UNSAFE = (*range(0x80, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_ONE_LINE = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421} | dict.fromkeys(_UNSAFE, 0xFFFD)
_INERT = {code: sign for code, sign in _ONE_LINE.items() if chr(code) not in "\n\t"}
# JSON's own escapes: json.dumps leaves these as they are, and a terminal would not.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (0x7F, *_UNSAFE)}


def inert(text: str) -> str:
    """Text whose only control characters are newline and tab."""
    return text.translate(_INERT)


def one_line(text: str, most: int = MAX_LINE_CHARS) -> str:
    """Text without any control character, newline and tab included, of about `most` characters at most."""
    return _shortened(text, most).translate(_ONE_LINE)


def error_line(text: str) -> str:
    """The line of an error or a warning."""
    return one_line(text, MAX_ERROR_CHARS)


def error_text(text: str) -> str:
    """The text of an exception, which may have several lines."""
    return inert(_shortened(text, MAX_ERROR_CHARS))


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most - _TAIL_CHARS]} [... {len(text) - most} more characters ...] {text[-_TAIL_CHARS:]}"


def json_line(value: Any) -> str:
    """JSON of a value on one line, other scripts as they are, every control character escaped."""
    return json.dumps(value, ensure_ascii=False).translate(_JSON_ESCAPES)
