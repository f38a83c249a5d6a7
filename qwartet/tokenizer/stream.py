"""Ids to text as they are generated: complete UTF-8 characters only, and nothing that may start a stop string.

    bytes of the ids   D | a e4 | bd a0 b s | t o | p ...          with the stop string "stop"
    emitted            D | a    | 你 b      |     | nothing more
    held back            | e4   | s         | sto |

A byte of an unfinished character waits in an incremental decoder. For each stop string a Knuth-Morris-Pratt
automaton knows how much of it the text ends with; the longest such end is held back. Both take constant time per
character, whatever the text and the stop strings.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Literal

from qwartet.errors import SettingError
from qwartet.tokenizer.thinking import ThinkingPart, ThinkingSplitter
from qwartet.tokenizer.tokenizer import Tokenizer


class TextStream:
    """Turns ids into text piece by piece; the pieces join to `tokenizer.decode` of all ids up to a stop string.

    `stopped_by` is the first stop string found, None until then. Of two that end at the same character the longer one
    wins. The stop string itself is not emitted. Stop strings are not looked for in thinking (`thinking`: where the text
    begins): a thought often says what the answer must not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        errors: Literal["replace", "ignore"] = "replace",
        skip_special_tokens: bool = True,
        thinking: ThinkingPart = "answer",
    ) -> None:
        if any(not string for string in stop):
            raise SettingError("a stop string is empty; it must have at least one character")
        if errors not in ("replace", "ignore"):
            raise SettingError(f"errors is {errors!r}; use 'replace' or 'ignore'")
        self.stopped_by: str | None = None
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._matchers = [_Matcher(string) for string in sorted(stop, key=len, reverse=True)]
        self._held = ""
        self._splitter = ThinkingSplitter(thinking) if stop and thinking != "answer" else None

    def push(self, token_id: int) -> str:
        """Text that becomes certain with one more id; empty after a stop string; raises RequestError for a bad id."""
        if self._skip_special_tokens and self._tokenizer.is_special(token_id):
            return ""
        return self._split(self._decoder.decode(self._tokenizer.decode_bytes(token_id)))

    def finish(self) -> str:
        """The text held back, now that no id follows; `errors` says how to treat an unfinished character."""
        text = self._split(self._decoder.decode(b"", final=True))
        if self._splitter is not None and self.stopped_by is None:
            *thinking, rest = self._splitter.finish()
            text += "".join(thinking) + self._release(rest)
        text, self._held = text + self._held, ""
        return text

    def _split(self, new: str) -> str:
        """What is certain of thinking, as it is, and of the text behind it."""
        if self._splitter is None:
            return self._release(new)
        *thinking, rest = self._splitter.feed(new)
        return "".join(thinking) + self._release(rest)

    def _release(self, new: str) -> str:
        if self.stopped_by is not None:
            return ""
        if not self._matchers:
            return new
        text = self._held + new
        for end, character in enumerate(new, start=len(self._held) + 1):
            finished = [matcher for matcher in self._matchers if matcher.advance(character)]
            if finished:
                self.stopped_by = finished[0].string
                self._held = ""
                return text[: end - len(self.stopped_by)]
        num_held = max(matcher.num_matched for matcher in self._matchers)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


class _Matcher:
    """The length of the longest prefix of one string that the text so far ends with."""

    def __init__(self, string: str) -> None:
        self.string = string
        self.num_matched = 0
        # fallback[n]: length of the longest proper prefix that string[:n] also ends with.
        self._fallback = [0, 0]
        shorter = 0
        for character in string[1:]:
            while shorter and string[shorter] != character:
                shorter = self._fallback[shorter]
            shorter += string[shorter] == character
            self._fallback.append(shorter)

    def advance(self, character: str) -> bool:
        """Take the next character; True if it completes the string."""
        while self.num_matched and self.string[self.num_matched] != character:
            self.num_matched = self._fallback[self.num_matched]
        self.num_matched += self.string[self.num_matched] == character
        return self.num_matched == len(self.string)
