"""Thinking, with which an answer of Qwen3 and others begins; read as it is generated.

    <think>                    may be the end of the prompt instead
    The user greets me.        the reasoning
    </think>

    Hello!                     the answer

Only what an answer begins with is thinking. Whitespace around the reasoning, and before the answer, is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.trimmed import Trimmed

if TYPE_CHECKING:
    from qwartet.tokenizer.tokenizer import Tokenizer

THINK, END_THINK = "<think>", "</think>"
_MAX_SPACE_IDS = 8  # between a tag and the end of a prompt

ThinkingPart = Literal["start", "thinking", "answer"]
"""Where a prompt ends: before an answer that may begin with thinking, within the thinking, or behind it."""


class Split(NamedTuple):
    """A piece of an answer, cut where it changes; the parts join to what was fed, less what is held back."""

    opening: str = ""
    reasoning: str = ""
    closing: str = ""
    rest: str = ""


class ThinkingSplitter:
    """Cuts the text of an answer, which arrives in pieces, into thinking and the rest; constant work per character."""

    def __init__(self, begins_in: ThinkingPart) -> None:
        self.part: ThinkingPart = begins_in
        self._held = ""  # may become a tag

    def feed(self, text: str) -> Split:
        """What becomes certain with one more piece."""
        if self.part == "answer":
            return Split(rest=text)
        text, self._held, opening = self._held + text, "", ""
        if self.part == "start":
            place = len(text) - len(text.lstrip())
            if text.startswith(THINK, place):
                opening, text = text[: place + len(THINK)], text[place + len(THINK) :]
                self.part = "thinking"
            elif THINK.startswith(text[place:]):
                self._held = text
                return Split()
            else:
                self.part = "answer"
                return Split(rest=text)
        end = text.find(END_THINK)
        if end >= 0:
            self.part = "answer"
            return Split(opening, text[:end], END_THINK, text[end + len(END_THINK) :])
        kept = len(text) - num_begun(text, END_THINK)
        self._held = text[kept:]
        return Split(opening, text[:kept])

    def finish(self) -> Split:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return Split(reasoning=held) if self.part == "thinking" else Split(rest=held)


class ThinkingStream:
    """Takes the text of an answer in pieces, and emits its reasoning and the text behind it, without the tags."""

    def __init__(self, begins_in: ThinkingPart) -> None:
        self._splitter = ThinkingSplitter(begins_in)
        self._reasoning = Trimmed()
        self._drops_space = False  # until the answer begins

    def feed(self, text: str) -> list[AnswerDelta]:
        """What becomes certain with one more piece."""
        return self._deltas(self._splitter.feed(text))

    def finish(self) -> list[AnswerDelta]:
        """What was held back, now that nothing follows."""
        return self._deltas(self._splitter.finish())

    def _deltas(self, split: Split) -> list[AnswerDelta]:
        self._drops_space |= bool(split.closing)
        answer = split.rest.lstrip() if self._drops_space else split.rest
        self._drops_space &= not answer
        deltas = [AnswerDelta(reasoning=self._reasoning.push(split.reasoning)), AnswerDelta(text=answer)]
        return [delta for delta in deltas if delta != AnswerDelta()]


def split_thinking(text: str, begins_in: ThinkingPart) -> tuple[str, str]:
    """The reasoning of a complete answer, and the text behind it."""
    stream = ThinkingStream(begins_in)
    deltas = stream.feed(text) + stream.finish()
    return "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas)


def begins_in(tokenizer: Tokenizer, prompt_ids: Sequence[int], has_text: bool = False) -> ThinkingPart:
    """Where a prompt ends, from the tag that stands last in its open answer; `has_text`: text of the answer follows."""
    think, end_think = (tokenizer.special_tokens.get(tag) for tag in (THINK, END_THINK))
    if think is None or end_think is None:
        return "answer"
    for token_id in reversed(prompt_ids[-_MAX_SPACE_IDS:]):
        if token_id == think:
            return "thinking"
        if token_id == end_think:
            return "answer"
        if tokenizer.decode_bytes(token_id).strip():
            break
    return "answer" if has_text else "start"


def num_reasoning_tokens(tokenizer: Tokenizer, ids: Sequence[int], begins_in: ThinkingPart) -> int:
    """How many ids of an answer are thinking, its tags included."""
    splitter = ThinkingSplitter(begins_in)
    for number, token_id in enumerate(ids, 1):
        # Bytes as characters: the tags are ASCII, and so is the whitespace that comes before.
        split = splitter.feed(tokenizer.decode_bytes(token_id).decode("latin-1"))
        if split.closing:
            return number
        if splitter.part == "answer":
            return 0
    return len(ids) if splitter.part == "thinking" else 0


def num_begun(text: str, tag: str) -> int:
    """How many of the last characters may become a tag."""
    start = text.find(tag[0], max(len(text) - len(tag) + 1, 0))
    while start >= 0 and not tag.startswith(text[start:]):
        start = text.find(tag[0], start + 1)
    return 0 if start < 0 else len(text) - start
