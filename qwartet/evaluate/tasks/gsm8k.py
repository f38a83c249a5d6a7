"""GSM8K: 1,319 problems of primary-school arithmetic, whose answer is the last number of a generated text.

Chat models get the bare question (eval/evaluate_chat_gsm8k.py of the Qwen repository); base models get it after the
eight worked examples of gsm8k_prompt.txt (eval/evaluate_gsm8k.py). With `shots`, chat models get as many of these, too;
the published script has four others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qwartet.errors import DataError
from qwartet.evaluate.data.files import find_file, json_rows, read_text, sha256_of_all
from qwartet.evaluate.extraction.numbers import is_same_number, last_digits, last_number, reference_number
from qwartet.evaluate.figures import share
from qwartet.evaluate.question import Answer, Chat, Continue, Figure, Grade, Question, Record
from qwartet.tokenizer.chatml import Message

EXAMPLES_FILE = "gsm8k_prompt.txt"
FIELDS: dict[str, type | tuple[type, ...]] = {"question": str, "answer": str}
_LAYOUT = "Question: {}\nLet's think step by step"


class Gsm8k:
    """The test split."""

    name = "gsm8k"

    def __init__(self, directory: Path, shots: int, *, is_chat: bool = True) -> None:
        """DataError where the questions, or the worked examples that `shots` needs, are missing."""
        self._path = find_file(directory, "gsm8k_test.jsonl", "test.jsonl")
        self._shots, self._is_chat = shots, is_chat
        self._examples_path = find_file(directory, EXAMPLES_FILE) if shots else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        files = [self._path, *([self._examples_path] if self._examples_path else [])]
        return {"shots": self._shots, "is_chat": self._is_chat, "sha256": sha256_of_all(files)}

    def questions(self) -> Sequence[Question]:
        examples = self._examples()
        found: list[Question] = []
        for line, row in json_rows(self._path, FIELDS):
            reference = reference_number(row["answer"])
            if reference is None:
                raise DataError(self._path, "the answer does not end in '#### N'", line=line, hint="fix the line")
            text = row["question"]
            if examples or not self._is_chat:
                text = examples + _LAYOUT.format(text)
            asked: Chat | Continue = Chat((Message("user", text),))
            if not self._is_chat:
                asked = Continue(text + "\n", stop=("\n\n", "Question:"))
            found.append(Question(f"gsm8k/{len(found)}", "gsm8k", asked, reference, examples))
        return found

    def _examples(self) -> str:
        if self._examples_path is None:
            return ""
        examples = read_text(self._examples_path).rstrip("\n").split("\n\n")
        if len(examples) < self._shots:
            reason = f"{len(examples)} examples, but --shots is {self._shots}"
            raise DataError(self._examples_path, reason, hint="use fewer shots")
        return "".join(f"{example}\n\n" for example in examples[: self._shots])

    def grade(self, question: Question, answer: Answer) -> Grade:
        found = last_number(answer.text) if self._is_chat else last_digits(answer.text)
        return Grade(found, float(is_same_number(found, question.reference)))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        return [share("accuracy", records)]

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}
