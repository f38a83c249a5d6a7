"""Strips the texts of an answer of the whitespace around them, as they arrive in pieces."""

from __future__ import annotations


class Trimmed:
    """A text of paragraphs: whitespace around each is held back until something follows."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._is_begun = False  # whether the paragraph has a letter
        self._has_text = False

    def push(self, text: str) -> str:
        """What becomes certain with one more piece."""
        if not self._is_begun:
            text = text.lstrip()
        kept = text.rstrip()
        if not kept:
            self._held += [text] if text else []
            return ""
        certain = "".join((*self._held, kept)) if self._held else kept
        self._held = [text[len(kept) :]] if len(kept) < len(text) else []
        self._is_begun = self._has_text = True
        return certain

    def begin_paragraph(self) -> None:
        """The next text begins a line, without whitespace before it."""
        self._held = ["\n"] if self._has_text else []
        self._is_begun = False
