"""Qwen-Agent's benchmark of the code interpreter: the model writes code, reads what came of it, and goes on.

Prompts, turns, stops, extraction and metrics are those of benchmark/code_interpreter in Qwen-Agent (version 20231206):
GSM8K's test split as mathematics, and the published questions about charts and other things. The code runs in a session
of the sandbox. Of the published figures all but one are measured: charts were judged by gpt-4-vision-preview, so theirs
is the share of answers whose code runs, as it is published for the other questions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.answerer import Answerer
from qwartet.evaluate.data.files import find_file, json_rows, sha256_of_all
from qwartet.evaluate.extraction.calls import code_of_input, latest_call
from qwartet.evaluate.extraction.numbers import is_equal_number, last_lone_number
from qwartet.evaluate.figures import by_group, share
from qwartet.evaluate.model_code import sandbox_of_task
from qwartet.evaluate.question import Answer, Chat, Figure, Grade, Question, Record
from qwartet.inert_text import one_line
from qwartet.sandbox.interpreter import package_directories
from qwartet.sandbox.session import SESSION_LIMITS, CellResult, Session
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.react import react_observation

QUESTIONS_FILE = "eval_code_interpreter_v1.jsonl"
MATH_FILES = ("gsm8k_test.jsonl", "test.jsonl")
UPLOADS = ("upload_file_clean", "upload_file")  # directories beside it, of the files that questions are about
REPETITION_PENALTY = 1.1  # of the published generation_config.json, which the script leaves as it is
STOP = ("Observation:",)
HARD, EASY, GENERAL, MATH = "visualization-hard", "visualization-easy", "general", "math"
MAX_CELLS = {MATH: 3, HARD: 3, EASY: 3, GENERAL: 1}
PACKAGES = ("matplotlib", "numpy", "openpyxl", "pandas", "scipy", "seaborn", "sympy")
_FIGURES = {
    "math accuracy": (MATH,),
    "executable, visualization": (HARD, EASY),
    "executable, vis-hard": (HARD,),
    "executable, vis-easy": (EASY,),
    "executable, general": (GENERAL,),
}

# prompt/qwen_react.py and prompt/react.py.
PROMPT = """Answer the following questions as best you can. You have access to the following tools:

code_interpreter: Call this tool to interact with the 代码解释器 API. What is the 代码解释器 API useful for? \
代码解释器，可用于执行Python代码。 Parameters: \
[{"name": "code", "type": "string", "description": "待执行的代码"}] \
Enclose the code within triple backticks (`) at the beginning and end of the code.

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [code_interpreter]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: """
_UPLOADED = {"zh": "[上传文件{}]", "en": "[Upload file {}]"}
_MARKER, _ANSWER_BEGINS = "<|im_", "<|im_end|>\n<|im_start|>assistant\n"

# code_interpreter.py: what a session has imported. Names that no cell mentions are left out, for they take seconds.
# Random numbers are the same in every run.
_PRELOADED = {
    r"math": "import math",
    r"re": "import re",
    r"json": "import json",
    r"np|numpy|pd|pandas|plt|matplotlib|sns|seaborn|scipy": "import numpy as np; np.random.seed(0)",
    r"pd|pandas": "import pandas as pd",
    r"plt|matplotlib|sns|seaborn": "import matplotlib, matplotlib.pyplot as plt",
    r"sns|seaborn": "import seaborn as sns; sns.set_theme()",
    r"Eq|symbols|solve|sympy": "from sympy import Eq, symbols, solve",
}


@dataclass(frozen=True)
class _Exchange:
    """What was written and run for a question so far."""

    files: tuple[str, ...] = ()  # that the question is about, as the data names them
    begun: str = ""  # the beginning of an answer, which some questions have
    given: tuple[str, ...] = ()  # the code in it
    text: str = ""  # what the model wrote after it, and the observations
    cells: tuple[str, ...] = ()  # the model's code
    errors: tuple[str, ...] = ()  # of each cell, the first one's also those of the given code; empty where it ran


class CodeInterpreter:
    """Mathematics, charts and other questions, as far as their data is there."""

    name = "code-interpreter"
    grading_threads = 2  # each waits for a session

    def __init__(self, directory: Path, math_directory: Path, *, allow_code_execution: bool) -> None:
        """`math_directory` is GSM8K's. SettingError where code may not be run, or cannot be run safely here; DataError
        where the data of both parts is missing.
        """
        sandbox = sandbox_of_task(self.name, is_allowed=allow_code_execution)
        if find_spec("json5") is None:
            raise SettingError("code-interpreter reads code with json5; install it: pip install 'qwartet[evaluate]'")
        self._path = _found(directory, QUESTIONS_FILE)
        self._math_path = _found(math_directory, *MATH_FILES)
        if self._path is None and self._math_path is None:
            reason = f"neither {QUESTIONS_FILE} nor {MATH_FILES[-1]} of GSM8K here"
            raise DataError(
                directory, reason, hint="run qwartet evaluate fetch, or see docs/evaluate.md for the data files"
            )
        self._sandbox = sandbox
        self._packages = package_directories(PACKAGES)

    @cached_property
    def settings(self) -> dict[str, Any]:
        paths = [path for path in (self._math_path, self._path, *self._uploads.values()) if path is not None]
        return {
            "shots": 0,
            "repetition_penalty": REPETITION_PENALTY,
            "sha256": sha256_of_all(paths),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "packages": _versions(),
            "limits": asdict(SESSION_LIMITS),
        }

    def questions(self) -> Sequence[Question]:
        return [*self._math_questions(), *self._other_questions()]

    def grade(self, question: Question, answer: Answer) -> Grade | Question:
        exchange, asked = question.so_far, question.request
        assert isinstance(exchange, _Exchange) and isinstance(asked, Chat), "questions are made here"
        call = latest_call(answer.text)
        if call is None:
            return _grade(question, replace(exchange, text=exchange.text + answer.text))
        written, code = call[0], _runnable(code_of_input(call[1]), exchange.files)
        errors, last = self._run(exchange, code)
        observation = _observation(last)
        exchange = replace(
            exchange,
            text=exchange.text + written + react_observation(observation),
            cells=(*exchange.cells, code),
            errors=(*exchange.errors, last.error if exchange.cells else errors),
        )
        is_over = len(exchange.cells) == MAX_CELLS[question.group]
        if is_over or "error:" in observation or "Traceback" in observation:
            return _grade(question, exchange)
        asked = replace(asked, answer_start=exchange.begun + exchange.text)
        return replace(question, request=asked, so_far=exchange, prefix="")

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        groups = by_group(records)
        figures = {name: [one for group in of for one in groups.get(group, [])] for name, of in _FIGURES.items()}
        return [share(name, found) for name, found in figures.items() if found]

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}

    def forecast(self, answerer: Answerer) -> Iterator[str]:
        yield from self._sandbox.describe(SESSION_LIMITS)
        if missing := [name for name, found in _versions().items() if found is None]:
            hint = "to install them: pip install 'qwartet[interpreter]'"
            yield f"code-interpreter: {', '.join(missing)} not installed, so code that needs them fails; {hint}"
        if self._math_path is None:
            yield f"code-interpreter: no {' or '.join(MATH_FILES)} (GSM8K); math is left out"
        if self._path is None:
            yield f"code-interpreter: no {QUESTIONS_FILE}; visualization and general are left out"
            return
        charts = "charts are not judged (gpt-4-vision-preview did that)"
        yield f"code-interpreter: {charts}; executable means that the code runs"
        if missing := [name for name, path in self._uploads.items() if path is None]:
            counts = f"{len(missing)} of {len(self._uploads)}"
            yield f"code-interpreter: {counts} files not found in {UPLOADS[0]}; code that reads them fails"

    def _math_questions(self) -> Iterator[Question]:
        if self._math_path is None:
            return
        rows = json_rows(self._math_path, {"question": str, "answer": str})
        for number, (line, row) in enumerate(rows):
            if (reference := last_lone_number(row["answer"])) is None:
                raise DataError(self._math_path, "the answer does not end in '#### N'", line=line, hint="fix the line")
            yield _question(f"{MATH}/{number}", MATH, row["question"], "", _Exchange(), reference)

    def _other_questions(self) -> Iterator[Question]:
        for number, (line, row) in enumerate(self._rows):
            query, files = row["query"].rstrip(), tuple(row.get("input_file_path", ()))
            uploaded = ", ".join(map(_name, files))
            asked = (_UPLOADED[row.get("lang", "en")].format(uploaded) if files else "") + query
            text, mark, begun = asked.partition(_ANSWER_BEGINS)
            if _MARKER in text or _MARKER in begun:
                raise self._wrong(line, "the query is neither a question nor one with the beginning of an answer")
            call = latest_call(query) if mark else None
            given = () if call is None else (_runnable(code_of_input(call[1]), files),)
            exchange = _Exchange(files, begun, given)
            if "visualization" in row["tags"]:
                yield _question(f"visualization/{number}", EASY if mark else HARD, text, begun, exchange)
            if GENERAL in row["tags"]:
                yield _question(f"{GENERAL}/{number}", GENERAL, text, begun, exchange)

    @cached_property
    def _rows(self) -> list[tuple[int, dict[str, Any]]]:
        found = [] if self._path is None else list(json_rows(self._path, {"query": str, "tags": str}))
        for line, row in found:
            files, language = row.get("input_file_path", []), row.get("lang", "en")
            if not isinstance(files, list) or not all(isinstance(one, str) and _name(one) for one in files):
                raise self._wrong(line, "the field 'input_file_path' has the wrong type")
            if language not in ("en", "zh"):
                raise self._wrong(line, f"lang is {language!r:.20}; it must be en or zh")
        return found

    def _wrong(self, line: int, reason: str) -> DataError:
        assert self._path is not None, "it has the line"
        return DataError(self._path, reason, line=line, hint="use the published file")

    @cached_property
    def _uploads(self) -> dict[str, Path | None]:
        """Where the files that the questions are about are, by name."""
        names = dict.fromkeys(_name(one) for _, row in self._rows for one in row.get("input_file_path", ()))
        return {name: self._upload(name) for name in names}

    def _upload(self, name: str) -> Path | None:
        assert self._path is not None, "it names the files"
        paths = (self._path.parent / folder / name for folder in UPLOADS)
        return next((one for one in paths if one.is_file() and one.stat().st_size <= SESSION_LIMITS.file_bytes), None)

    def _run(self, exchange: _Exchange, code: str) -> tuple[str, CellResult]:
        """The result of the latest code of an exchange, and the first error of it all.

        Every turn begins a session and runs the earlier cells again: no process waits, or is busy, while the model
        writes, and a run of many exchanges takes no more memory than one of few.
        """
        if not code.strip():
            return "", CellResult()
        cells = (*exchange.given, *exchange.cells, code)
        paths = {_name(one): self._uploads[_name(one)] for one in exchange.files}
        contents = {name: _content(path) for name, path in paths.items() if path is not None}
        with Session(self._sandbox, packages=self._packages, files=contents) as session:
            session.run(_preloaded(cells))
            results = [session.run(cell) for cell in cells]
        return next((one.error for one in results if one.error), ""), results[-1]


def _question(id: str, group: str, text: str, begun: str, exchange: _Exchange, reference: Any = None) -> Question:
    message = Message("user", (PROMPT + text).rstrip() if not begun else PROMPT + text)
    asked = Chat((message,), stop=STOP, repetition_penalty=REPETITION_PENALTY, answer_start=begun)
    return Question(id, group, asked, reference, prefix="react", so_far=exchange)


def _grade(question: Question, exchange: _Exchange) -> Grade:
    """A number that equals the solution's for mathematics; for the others, whether the first code runs."""
    first_error = next(filter(None, exchange.errors), "")
    details = {
        "cells": len(exchange.cells),
        "verdict": "no code" if not exchange.cells else "raised" if first_error else "ran",
        "message": one_line(first_error.rpartition("\n")[2], 500),
    }
    if question.group == MATH:
        found = last_lone_number(exchange.text)
        return Grade(found, float(is_equal_number(found, question.reference)), details, exchange.text)
    code = exchange.cells[0] if exchange.cells else None
    return Grade(code, float(code is not None and not exchange.errors[0]), details, exchange.text)


def _runnable(code: str, files: Sequence[str]) -> str:
    """The code with the names that files have in the session, and a call of the function that it leaves uncalled."""
    for path in files:
        code = code.replace(path, _name(path))
    return f"{code}\nsolution()" if "def solution()" in code else code


def _preloaded(cells: Sequence[str]) -> str:
    """A cell of the imports that these may count on, as far as they are installed."""
    text = "\n".join(cells)
    wanted = [statement for names, statement in _PRELOADED.items() if re.search(rf"\b(?:{names})\b", text)]
    return "".join(f"try:\n    {statement}\nexcept ImportError:\n    pass\n" for statement in wanted)


def _observation(result: CellResult) -> str:
    """What the model reads of a result."""
    texts = {
        "stdout": result.stdout,
        "stderr": result.stderr,
        "execute_result": result.value,
        "error": result.error,
    }
    blocks = [f"{kind}:\n\n```\n{text}\n```" for kind, text in texts.items() if text]
    return "\n\n".join(
        [*blocks, *(f"![fig-{number:03}]({path})" for number, path in enumerate(result.figures, start=1))]
    )


def _found(directory: Path, *names: str) -> Path | None:
    try:
        return find_file(directory, *names)
    except DataError:
        return None


def _name(path: str) -> str:
    """The last part of a path; empty where that is no name."""
    return PurePosixPath(path).name.removeprefix("..")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", hint="check the path") from None


def _versions() -> dict[str, str | None]:
    """Of the packages that code may import; None for those that are missing."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
