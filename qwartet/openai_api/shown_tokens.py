"""Where tokens stand in the text, and which of them are in what has been shown of it."""

from __future__ import annotations

import codecs
from collections import deque

from qwartet.engine.async_engine import StreamOutput
from qwartet.engine.request import TokenLogprobs
from qwartet.tokenizer.tokenizer import Tokenizer


class TextOffsets:
    """For each token the number of whole characters before it, while they come."""

    def __init__(self, tokenizer: Tokenizer, *, with_special: bool) -> None:
        """`with_special`: special tokens count as their text, else as nothing."""
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
    """The tokens of which something is in the text: no stop token, no stop string, nothing that is held back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offsets = TextOffsets(tokenizer, with_special=False)
        self._held: deque[tuple[int, TokenLogprobs]] = deque()
        self._num_chars = 0

    def push(self, output: StreamOutput) -> list[TokenLogprobs]:
        """The log-probabilities of tokens that came into the text with this output; none where none were asked for."""
        for one in output.logprobs:
            self._held.append((self._offsets.push(one.token_id), one))
        self._num_chars += len(output.text)
        shown = []
        while self._held and self._held[0][0] < self._num_chars:
            _, one = self._held.popleft()
            if not self._tokenizer.is_special(one.token_id):
                shown.append(one)
        return shown
