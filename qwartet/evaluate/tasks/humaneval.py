"""HumanEval: 164 Python functions to be written, and run against their tests in a sandbox.

Chat models get the signature, the description and the head of the function (eval/evaluate_chat_humaneval.py of the Qwen
repository), base models the head alone, which they continue (eval/evaluate_humaneval.py). One answer to each problem:
pass@1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from qwartet.errors import DataError
from qwartet.evaluate.answerer import Answerer
from qwartet.evaluate.data.files import find_file, json_rows
from qwartet.evaluate.extraction.code import BASE_STOPS, body_in_answer, body_in_continuation
from qwartet.evaluate.figures import share
from qwartet.evaluate.model_code import sandbox_of_task
from qwartet.evaluate.question import Answer, Chat, Continue, Figure, Grade, Question, Record
from qwartet.files import sha256_of
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.verdict import Problem, judge
from qwartet.tokenizer.chatml import Message

FIELDS: dict[str, type | tuple[type, ...]] = {"task_id": str, "prompt": str, "entry_point": str, "test": str}


class HumanEval:
    """The chat protocol, or the base one."""

    name = "humaneval"
    grading_threads = 2  # each waits for a sandbox

    def __init__(self, directory: Path, *, is_chat: bool, allow_code_execution: bool) -> None:
        """SettingError where code may not be run, or cannot be run safely here; DataError without data."""
        self._sandbox = sandbox_of_task(self.name, is_allowed=allow_code_execution)
        self._path = find_file(directory, "HumanEval.jsonl.gz", "HumanEval.jsonl")
        self._is_chat, self._limits = is_chat, Limits()

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {
            "shots": 0,
            "protocol": "chat" if self._is_chat else "base",
            "sha256": sha256_of(self._path),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "limits": asdict(self._limits),
        }

    def questions(self) -> Sequence[Question]:
        found = []
        for line, row in json_rows(self._path, FIELDS):
            asked: Chat | Continue
            if self._is_chat:
                signature, description = _described(row, self._path, line)
                text = f"Write a Python function `{signature}` to solve the following problem:\n{description}\n"
                asked = Chat((Message("user", text + row["prompt"]),))
            else:
                asked = Continue(row["prompt"], stop=BASE_STOPS)
            reference = {name: row[name] for name in ("prompt", "entry_point", "test")}
            found.append(Question(row["task_id"], "humaneval", asked, reference))
        return found

    def grade(self, question: Question, answer: Answer) -> Grade:
        problem = Problem(**question.reference)
        if self._is_chat:
            body = body_in_answer(answer.text, problem.entry_point)
        else:
            body = body_in_continuation(answer.text)
        verdict = judge(self._sandbox, problem, f"{problem.prompt}{body}\n", self._limits)
        return Grade(body, float(verdict.passed), {"verdict": verdict.reason, "message": verdict.message})

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        return [share("passed", records)]

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}

    def forecast(self, answerer: Answerer) -> Iterator[str]:
        yield from self._sandbox.describe(self._limits)


def _described(row: dict[str, Any], path: Path, line: int) -> tuple[str, str]:
    """The signature and the description in a problem's prompt, found with the published script's patterns.

    As there, the description is the prompt's first triple-quoted text, which in five problems is another one than the
    function's own.
    """
    signature = re.search(rf"def\s+({re.escape(row['entry_point'])}.*?):\s*\n", row["prompt"])
    description = re.search(r"(?:\"\"\"|''')(.*?)(?:\"\"\"|''')", row["prompt"], re.DOTALL)
    if signature is None or description is None:
        what = f"no function {row['entry_point']}" if signature is None else "no docstring"
        raise DataError(path, f"the prompt has {what}", line=line, hint="use the published file")
    return signature[1], "\n".join(one.strip() for one in description[1].split("\n"))
