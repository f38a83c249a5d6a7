"""Perplexity of the user's own texts, by context length: how well the model predicts each next token.

A window of a length slides over each text, and every token but the first is predicted once, from all that is in the
window before it. So a longer window shows what a longer context is worth (the table of the Qwen report).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log
from pathlib import Path
from typing import Any

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.answerer import Answerer
from qwartet.evaluate.data.files import json_rows, read_text, sha256_of_all
from qwartet.evaluate.forecast import prompt_lines
from qwartet.evaluate.question import Answer, Choose, Figure, Grade, Question, Record
from qwartet.tokenizer.tokenizer import Tokenizer

REPORT_LENGTHS = tuple(1024 * 2**n for n in range(6))  # 1k to 32k
SUFFIXES = (".txt", ".md", ".jsonl")


@dataclass(frozen=True)
class PerplexitySettings:
    """Which texts, and in which windows."""

    text: Path | None = None  # a file or a directory; None: the directory "perplexity" of the data
    lengths: tuple[int, ...] = REPORT_LENGTHS
    stride: int | None = None  # tokens that a window moves; None: half of its length

    def __post_init__(self) -> None:
        if wrong := [length for length in self.lengths if length < 2]:
            raise SettingError(f"--perplexity-length is {wrong[0]}; it must be at least 2", param="perplexity_length")
        if self.stride is not None and not 1 <= self.stride < min(self.lengths):
            reason = f"--perplexity-stride is {self.stride}; it must be at least 1 and less than the shortest length"
            raise SettingError(reason, param="perplexity_stride")


class Perplexity:
    """A question for each window."""

    name = "perplexity"

    def __init__(
        self, directory: Path, settings: PerplexitySettings, tokenizer: Tokenizer | None, max_model_len: int | None
    ) -> None:
        """DataError without a text; SettingError where no length fits the context."""
        self._paths = _text_files(settings.text or directory)
        self._own, self._tokenizer, self._max_model_len = settings, tokenizer, max_model_len
        self._lengths = [length for length in settings.lengths if max_model_len is None or length <= max_model_len]
        if not self._lengths:
            hint = f"use --perplexity-length of at most {max_model_len:,}"
            raise SettingError(f"no window fits the model's context of {max_model_len:,} tokens; {hint}")

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"lengths": self._lengths, "stride": self._own.stride, "sha256": sha256_of_all(self._paths)}

    def questions(self) -> Sequence[Question]:
        return self._questions

    def grade(self, question: Question, answer: Answer) -> Grade:
        """The score is the mean probability of a token, so that two models can be compared window by window."""
        [logprob], [num_tokens] = answer.logprobs, answer.num_tokens
        details = {"nats": -logprob, "tokens": num_tokens, "bytes": question.reference}
        return Grade(exp(-logprob / num_tokens), exp(logprob / num_tokens), details)

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        """Of the longest windows first; windows without an answer are left out."""
        figures = []
        for length in sorted(self._lengths, reverse=True):
            own = [record.details for record in records if record.group == f"{length}" and record.error is None]
            if own:
                nats, tokens, num_bytes = (sum(one[name] for one in own) for name in ("nats", "tokens", "bytes"))
                figures.append(Figure(f"perplexity at {length:,}", exp(nats / tokens), tokens, unit="per token"))
                bits = nats / log(2) / num_bytes
                figures.append(Figure(f"bits per byte at {length:,}", bits, num_bytes, unit="bits"))
        return figures

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}

    def forecast(self, answerer: Answerer) -> Iterator[str]:
        if left_out := [f"{length:,}" for length in self._own.lengths if length not in self._lengths]:
            reason = f"longer than the model's context of {self._max_model_len:,} tokens"
            yield f"perplexity: left out {', '.join(left_out)}: {reason}"
        if self._tokenizer is not None:
            sizes = Counter(int(question.group) for question in self._questions)
            yield from prompt_lines(self.name, sizes, answerer, self._tokenizer)

    @cached_property
    def _questions(self) -> list[Question]:
        assert self._tokenizer is not None, "windows are counted once a model is loaded"
        found: list[Question] = []
        for name, text in _texts(self._paths):
            ids = self._tokenizer.encode(text)
            sizes = [len(self._tokenizer.decode_bytes(token_id)) for token_id in ids]
            for length in self._lengths:
                for start, first, end in windows(len(ids), length, self._own.stride or length // 2):
                    asked = Choose(tuple(ids[start:first]), (tuple(ids[first:end]),))
                    id = f"{self.name}/{length}/{name}/{first}"
                    found.append(Question(id, f"{length}", asked, sum(sizes[first:end]), f"{name}/{start}"))
        if not found:
            raise DataError(self._paths[0], "no text of two tokens or more", hint="use a longer text")
        return found


def windows(num_tokens: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, first predicted token, end) of each window; every token but the first is predicted once."""
    first = 1
    while first < num_tokens:
        end = min(length if first == 1 else first + stride, num_tokens)
        yield max(end - length, 0), first, end
        first = end


def _text_files(place: Path) -> list[Path]:
    """The text files of a directory in the order of their names, or one file."""
    paths = [place] if place.is_file() else sorted(path for path in place.glob("*") if path.suffix in SUFFIXES)
    if not paths:
        reason = "no text here" if place.is_dir() else "no such file or directory"
        raise DataError(place, reason, hint="pass a .txt, .md or .jsonl file, or a directory, as --perplexity-text")
    return paths


def _texts(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The name and content of each text: a file, or the "text" of each line of a .jsonl file."""
    for path in paths:
        if path.suffix == ".jsonl":
            for line, row in json_rows(path, {"text": str}):
                yield f"{path.name}:{line}", row["text"]
        else:
            yield path.name, read_text(path)
