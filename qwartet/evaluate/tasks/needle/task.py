"""Needle in a haystack: one sentence with a secret in a long text, and a question about it (after G. Kamradt's test).

The needle follows the last sentence that ends before the depth, measured in tokens, and a few tokens of each length
are kept for question and answer, as in the published harness. The score needs no judge: the secret has to be in the
answer, as a whole word. Which needle the published picture was made with is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.answerer import Answerer
from qwartet.evaluate.figures import score_of, share
from qwartet.evaluate.filler.prose import prose
from qwartet.evaluate.forecast import prompt_lines
from qwartet.evaluate.question import Answer, Chat, Continue, Figure, Grade, Question, Record
from qwartet.evaluate.tasks.needle.haystack import Haystack
from qwartet.evaluate.tasks.needle.heat_map import heat_map, require_matplotlib
from qwartet.evaluate.tasks.needle.needles import Needle, contains_word, made_needle
from qwartet.evaluate.tasks.needle.settings import NeedleSettings
from qwartet.tokenizer.chatml import Message, build_prompt
from qwartet.tokenizer.tokenizer import Tokenizer

SPARE_TOKENS = 8  # for tokens that differ where texts meet
MIN_ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Cell:
    """A length and a depth."""

    length: int
    depth: int

    @classmethod
    def of(cls, record: Record) -> Cell:
        """Of needle/LENGTH/DEPTH/NUMBER."""
        _, length, depth, _ = record.id.split("/")
        return cls(int(length), int(depth))


class NeedleTask:
    """A question for each length, depth and needle."""

    name = "needle"

    def __init__(
        self, settings: NeedleSettings, tokenizer: Tokenizer | None, max_model_len: int | None, *, is_chat: bool
    ) -> None:
        """`tokenizer` is None for a model that is not loaded yet. SettingError where no length fits the context."""
        require_matplotlib()
        self._own, self._tokenizer, self._is_chat = settings, tokenizer, is_chat
        self._max_model_len = max_model_len
        self._lengths = tuple(length for length in settings.lengths if max_model_len is None or length <= max_model_len)
        if not self._lengths:
            hint = f"use --needle-lengths of at most {max_model_len:,}"
            raise SettingError(f"no needle length fits the model's context of {max_model_len:,} tokens; {hint}")

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {**self._own.to_dict(), "lengths": list(self._lengths), "chat": self._is_chat}

    def questions(self) -> Sequence[Question]:
        return [question for _, question in self._asked]

    def grade(self, question: Question, answer: Answer) -> Grade:
        secret, found = question.reference, contains_word(answer.text, question.reference)
        return Grade(secret if found else None, float(found))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        figures = [share("found", records)]
        cells = [Cell.of(record) for record in records]
        for length in self._lengths:
            if own := [record for record, cell in zip(records, cells, strict=True) if cell.length == length]:
                figures.append(share(f"length {length:,}", own))
        for depth in self._own.depths:
            if own := [record for record, cell in zip(records, cells, strict=True) if cell.depth == depth]:
                figures.append(share(f"depth {depth} %", own))
        return figures

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        """The heat map."""
        scores: dict[tuple[int, int], list[float]] = {}
        for record in records:
            cell = Cell.of(record)
            scores.setdefault((cell.length, cell.depth), []).append(score_of(record))
        shares = {cell: sum(ones) / len(ones) for cell, ones in scores.items()}
        return heat_map(shares, self._lengths, self._own.depths, self._own.language)

    def forecast(self, answerer: Answerer) -> Iterator[str]:
        left_out = [f"{length:,}" for length in self._own.lengths if length not in self._lengths]
        if left_out:
            reason = f"longer than the model's context of {self._max_model_len:,} tokens"
            yield f"needle: left out {', '.join(left_out)}: {reason}"
        if self._tokenizer is not None:
            tokens = Counter(cell.length for cell, _ in self._asked)
            yield from prompt_lines(self.name, tokens, answerer, self._tokenizer)

    @cached_property
    def _asked(self) -> list[tuple[Cell, Question]]:
        assert self._tokenizer is not None, "tokens are counted once a model is loaded"
        found = []
        for number in range(self._own.needles):
            hay_text = self._hay(number, self._tokenizer)
            needle = self._needle(number, hay_text)
            hay = Haystack(self._tokenizer, hay_text)
            max_tokens = self._answer_tokens(needle, self._tokenizer)
            for length in self._lengths:
                for depth in self._own.depths:
                    context = hay.with_needle(needle.text, length - self._own.buffer, depth)
                    if context is None:
                        reason = f"{length:,} tokens, {self._own.buffer} of them for question and answer, are too few"
                        hint = "use longer --needle-lengths or a smaller --needle-buffer"
                        raise SettingError(f"{reason} for the needle; {hint}", param="needle_lengths")
                    id = f"{self.name}/{length}/{depth}/{number}"
                    asked = self._request(context, needle, max_tokens)
                    found.append((Cell(length, depth), Question(id, f"{length}", asked, needle.answer, f"{number}")))
        return found

    def _hay(self, number: int, tokenizer: Tokenizer) -> str:
        """Hay for the longest length. DataError for a file that is shorter."""
        num_tokens = max(self._lengths)
        language = self._own.hay_language
        if language is not None:
            return prose(language, number, num_tokens, tokenizer)
        text = self._own.hay_text()
        if len(tokenizer.encode(text)) < num_tokens - self._own.buffer:
            reason = f"{len(tokenizer.encode(text)):,} tokens, fewer than the longest length needs ({num_tokens:,})"
            raise DataError(Path(str(self._own.hay)), reason, hint="use a longer file, or shorter --needle-lengths")
        return text

    def _needle(self, number: int, hay: str) -> Needle:
        own = self._own.own
        if own is None:
            return made_needle(self._own.language, number, hay)
        if not contains_word(own.text, own.answer):
            raise SettingError(f"the needle does not contain its answer, {own.answer!r:.40}", param="needle_answer")
        if contains_word(hay, own.answer):
            raise SettingError(f"the hay contains the needle's answer, {own.answer!r:.40}; choose another answer")
        return Needle(own.text, own.question, own.answer)

    def _request(self, context: str, needle: Needle, max_tokens: int) -> Chat | Continue:
        if self._is_chat:
            return Chat((Message("user", f"{context}\n\n{needle.question}"),), max_tokens=max_tokens)
        return Continue(f"{context}\n\n{needle.question}\n", max_tokens=max_tokens, stop=("\n\n",))

    def _answer_tokens(self, needle: Needle, tokenizer: Tokenizer) -> int:
        """What the buffer leaves for the answer, once the question and the chat format are in it."""
        used = len(build_prompt(tokenizer, [Message("user", f"\n\n{needle.question}")])) + SPARE_TOKENS
        if self._own.buffer - used < MIN_ANSWER_TOKENS:
            least = used + MIN_ANSWER_TOKENS
            reason = f"--needle-buffer is {self._own.buffer}; question and answer need at least {least} tokens"
            raise SettingError(reason, param="needle_buffer")
        return self._own.buffer - used
