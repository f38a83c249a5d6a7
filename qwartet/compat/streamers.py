"""Streamers: objects to which generate(streamer=...) passes the prompt, then every new id, as in transformers."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from typing import Any, Protocol

from torch import Tensor

from qwartet.compat.tokenization import QWenTokenizer
from qwartet.errors import SettingError


class Streamer(Protocol):
    """What generate() calls: `put` with the prompt [1, L] and then with each id [1], `end` at the end."""

    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


class TextStreamer:
    """Prints the text of a row as it is generated."""

    def __init__(self, tokenizer: QWenTokenizer, skip_prompt: bool = False, **decode: Any) -> None:
        """`skip_prompt` leaves the prompt out; `decode` are arguments of tokenizer.decode."""
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode
        self._begin()

    def _begin(self) -> None:
        self._ids: list[int] = []  # whose text is not shown yet
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Takes ids [n] or [1, n]; SettingError for several rows."""
        if value.dim() > 1 and len(value) > 1:
            raise SettingError(f"{type(self).__name__} takes one row, not {len(value)}; generate them one by one")
        is_skipped, self._is_prompt = self._is_prompt and self.skip_prompt, False
        if not is_skipped:
            self._ids += value.flatten().tolist()
            self._show(stream_end=False)

    def end(self) -> None:
        """Prints what was held back; the next row starts afresh."""
        self._show(stream_end=True)
        self._begin()

    def _show(self, *, stream_end: bool) -> None:
        if not stream_end and self.tokenizer.decode(self._ids, errors="replace").endswith("\ufffd"):
            return  # bytes of a character are still to come
        text = self.tokenizer.decode(self._ids, **self.decode_kwargs)
        self._ids = []
        if text or stream_end:
            self.on_finalized_text(text, stream_end=stream_end)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Prints a piece of text; may be overridden."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """Yields the text of a row while another thread generates it."""

    def __init__(
        self, tokenizer: QWenTokenizer, skip_prompt: bool = False, timeout: float | None = None, **decode: Any
    ) -> None:
        """`timeout` seconds without text raise queue.Empty."""
        super().__init__(tokenizer, skip_prompt, **decode)
        self.timeout = timeout
        self._pieces: Queue[str | None] = Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Passes a piece of text on."""
        self._pieces.put(text)
        if stream_end:
            self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._pieces.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece
