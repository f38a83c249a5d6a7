"""A small benchmark in the form of Qwen-Agent's, and a fake model whose answers to it are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwartet.evaluate.question import Question

CHART = "Plot a line"
EASY = (
    "Plot y<|im_end|>\n<|im_start|>assistant\nThought: First the data.\nAction: code_interpreter\n"
    "Action Input:\n```py\ny = [1, 2]\n```\nObservation: \nThought:"
)
QUERIES: list[dict[str, Any]] = [
    {"query": CHART, "tags": "all_ci,visualization", "lang": "en"},
    {"query": EASY, "tags": "all_ci,visualization", "lang": "en"},
    {
        "query": "Count the rows.\n",
        "tags": "all_ci,general",
        "lang": "en",
        "input_file_path": ["upload/a.csv", "b.csv"],
    },
    {"query": "数一数", "tags": "all_ci,general", "lang": "zh", "input_file_path": ["a.csv"]},
    {"query": "1 + 1", "tags": "all_ci,math"},  # of the first version, which is not asked
]
PROBLEMS = [
    {"question": "What is 3 + 4?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    {"question": "What is 30 * 5?", "answer": "It is 150.\n#### 150"},
]


def code(*lines: str, thought: str = "I run it.") -> str:
    """An answer that calls the code interpreter, as far as the stop."""
    source = "\n".join(lines)
    return f"Thought: {thought}\nAction: code_interpreter\nAction Input:\n```py\n{source}\n```\n"


def final(text: str) -> str:
    """What follows an observation, where the exchange ends."""
    return f" I now know the final answer.\nFinal Answer: {text}"


def write_data(
    directory: Path, queries: Sequence[dict[str, Any]] = QUERIES, problems: Sequence[dict[str, Any]] = PROBLEMS
) -> Path:
    """The files as they are published, each part in a folder of its own."""
    folder = directory / "code-interpreter"
    (folder / "upload_file_clean").mkdir(parents=True)
    (directory / "gsm8k").mkdir()
    rows = {folder / "eval_code_interpreter_v1.jsonl": queries, directory / "gsm8k" / "test.jsonl": problems}
    for path, found in rows.items():
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    (folder / "upload_file_clean" / "a.csv").write_text("x,y\n1,2\n3,4\n")
    return directory


def turn(answers: Mapping[str, Sequence[str]]) -> Any:
    """A fake model's reply: the answer of each question's turn, which is told by how much was observed."""

    def reply(question: Question) -> str:
        begun = question.request.answer_start  # type: ignore[union-attr]
        given = begun.count("\nObservation:") - (question.group == "visualization-easy")
        return answers[question.id][given]

    return reply
