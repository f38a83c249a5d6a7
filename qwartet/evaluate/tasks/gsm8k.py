"""GSM8K: 1,319 problems of primary-school arithmetic.

Chat models get the bare question (0 shots) or four worked examples before it, base models eight; answers are generated,
and their last number counts (eval/evaluate_chat_gsm8k.py and evaluate_gsm8k.py of the Qwen repository).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qwartet.errors import DataError
from qwartet.evaluate.data_files import find_file, json_rows, sha256_of
from qwartet.evaluate.extraction.numbers import is_same_number, last_number, reference_number
from qwartet.evaluate.figures import share
from qwartet.evaluate.question import Answer, Chat, Figure, Grade, Question, Record
from qwartet.tokenizer.chatml import Message


class Gsm8k:
    """The chat protocol without examples."""

    name = "gsm8k"

    def __init__(self, directory: Path) -> None:
        self._path = find_file(directory, "gsm8k_test.jsonl", "test.jsonl")

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"shots": 0, "sha256": sha256_of(self._path)}

    def questions(self) -> Sequence[Question]:
        found: list[Question] = []
        for line, row in json_rows(self._path, {"question": str, "answer": str}):
            reference = reference_number(row["answer"])
            if reference is None:
                raise DataError(self._path, "the answer does not end in '#### N'", line=line, hint="fix the line")
            asked = Chat((Message("user", row["question"]),))
            found.append(Question(f"gsm8k/{len(found)}", "gsm8k", asked, reference))
        return found

    def grade(self, question: Question, answer: Answer) -> Grade:
        found = last_number(answer.text)
        return Grade(found, float(is_same_number(found, question.reference)))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        return [share("accuracy", records)]

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}
