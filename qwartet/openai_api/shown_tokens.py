"""Offsets of tokens in the text, and which tokens have been shown to the client."""

from __future__ import annotations

import codecs
from collections import deque

from qwartet.engine.async_engine import StreamOutput
from qwartet.engine.request import TokenLogprobs
from qwartet.tokenizer.tokenizer import Tokenizer


class TextOffsets:
    """For each token, as they arrive, the number of complete characters before it."""

    def __init__(self, tokenizer: Tokenizer, *, with_special: bool) -> None:
        """`with_special`: special tokens count with their text, else they count as empty."""
        self._tokenizer, self._with_special = tokenizer, with_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def push(self, token_id: int) -> int:
        """The offset of the next token."""
        before = self._offset
        if self._with_special or not self._tokenizer.is_special(token_id):
            self._offset += len(self._decoder.decode(self._tokenizer.decode_bytes(token_id)))
        return before


class ShownTokens:
    """The tokens that are at least partly in the text: no stop tokens, stop strings, or held-back text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offsets = TextOffsets(tokenizer, with_special=False)
        self._held: deque[tuple[int, TokenLogprobs]] = deque()
        self._num_chars = 0

    def push(self, output: StreamOutput) -> list[TokenLogprobs]:
        """The log-probabilities of tokens that entered the text with this output; empty if none were requested."""
        for one in output.logprobs:
            self._held.append((self._offsets.push(one.token_id), one))
        self._num_chars += len(output.text)
        shown = []
        while self._held and self._held[0][0] < self._num_chars:
            _, one = self._held.popleft()
            if not self._tokenizer.is_special(one.token_id):
                shown.append(one)
        return shown
