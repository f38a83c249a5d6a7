"""Follows a JSON object to its end while it arrives in pieces; constant work per character.

It tells where the object ends and whether a place is inside a string, not whether the object is valid: models write
line breaks in strings, and such an object still has an end.
"""

from __future__ import annotations

import re

_CLOSERS = {"}": "{", "]": "["}
_OUTSIDE = re.compile(r'["{}\[\]<]')
_INSIDE = re.compile(r'["\\\x00-\x1f<]')


class JsonObject:
    """The progress through one object; `advance` stops at each `<` that may begin a tag."""

    def __init__(self) -> None:
        self.is_closed = False
        self._open: list[str] = []  # brackets and braces
        self._in_string = False
        self._is_escaped = False
        self._is_broken = False  # it cannot be valid any more: a string may then be one that was never closed

    def advance(self, text: str, start: int) -> int:
        """Reads text[start:]; returns where it stopped: behind the object's end, at a `<`, or at the text's end."""
        place = start
        while place < len(text) and not self.is_closed:
            if self._is_escaped:
                self._is_escaped = False
                place += 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, place)
            if found is None:
                return len(text)
            place = found.end()
            if found[0] == "<" and (self._is_broken or not self._in_string):
                return found.start()
            self._take(found[0])
        return place

    def skip(self) -> None:
        """The `<` where `advance` stopped is none of a tag: the caller goes on behind it."""
        self._is_broken = True

    def _take(self, character: str) -> None:
        if self._in_string:
            self._in_string = character != '"'
            self._is_escaped = character == "\\"
            self._is_broken |= character < " "
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._open.append(character)
        elif self._open and self._open[-1] == _CLOSERS[character]:
            self._open.pop()
            self.is_closed = not self._open
        else:
            self._is_broken = True
