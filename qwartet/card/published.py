"""Every table of published figures, and which of them belongs to a measurement.

Data: published.json (model card of Qwen-72B-Chat-Int4, README of the Qwen repository) and planning/published_figures.py
for speed and memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qwartet.card.table import NONE, Language, Table
from qwartet.planning.published_figures import GENERATED_TOKENS, PUBLISHED_RUNS

_RAN_OUT = "OOM"
PRECISIONS = {"bf16": "BF16", "int8": "Int8", "int4": "Int4"}
_CHAT_ROW = "Qwen-{size}-Chat"
_SHOTS_ROW = "Qwen-{size}-Chat ({shots}-shot)"

# Task -> figure -> table, row and column. A figure of 0 shots is looked for in the table of quantised models first.
_QUANTIZATION_COLUMNS = {
    ("mmlu", "accuracy"): "MMLU",
    ("ceval", "accuracy"): "C-Eval (val)",
    ("gsm8k", "accuracy"): "GSM8K",
    ("humaneval", "passed"): "HumanEval",
}
_CHAT: dict[str, tuple[str, dict[str, str]]] = {
    "mmlu": (_SHOTS_ROW, {"accuracy": "Avg. Acc."}),
    "ceval": (_SHOTS_ROW, {"accuracy": "Avg. Acc."}),
    "gsm8k": (_SHOTS_ROW, {"accuracy": "Acc."}),
    "humaneval": (_CHAT_ROW, {"passed": "Pass@1"}),
    "leval": (
        _CHAT_ROW,
        {
            "average": "Average", "coursera": "Coursera", "gsm100": "GSM", "quality": "QuALITY", "tpo": "TOEFL",
            "codeU": "CodeU", "sci_fi": "SFcition",
        },
    ),
    "code-interpreter": (
        _CHAT_ROW,
        {"math accuracy": "Math", "executable, general": "General (executable)"},
    ),
    "tools": (
        _CHAT_ROW,
        {
            "tool selection": "Tool Selection (Acc.)", "argument ROUGE-L": "Tool Input (Rouge-L)",
            "false positives": "False Positive Error",
        },
    ),
}  # fmt: skip
_BASE = {
    ("mmlu", 5): "MMLU (5-shot)",
    ("ceval", 5): "C-Eval (5-shot)",
    ("gsm8k", 8): "GSM8K (8-shot)",
    ("humaneval", 0): "HumanEval (0-shot)",
}


@dataclass(frozen=True)
class PublishedTable:
    """A table as it was published, its texts in both languages."""

    id: str
    title: dict[str, str]
    source: dict[str, str]
    columns: list[str]
    rows: list[list[Any]]  # the row's name, then numbers; None where nothing was published
    note: dict[str, str]  # empty where there is none

    def table(self, language: Language) -> Table:
        """Ready to print."""
        headings = [_headings_zh().get(name, name) for name in self.columns] if language == "zh" else self.columns
        places = max(_places(value) for row in self.rows for value in row)
        return Table(headings, [[_cell(value, places) for value in row] for row in self.rows], self.num_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @property
    def num_names(self) -> int:
        """Columns of text before those of numbers."""
        first = self.rows[0]
        return next((index for index, value in enumerate(first) if not isinstance(value, str)), len(first))

    def value(self, row: str, column: str) -> float | None:
        """The figure in a row and a column; None where there is none."""
        if column not in self.columns:
            return None
        found = next((cells for cells in self.rows if cells[0] == row), None)
        return None if found is None else found[self.columns.index(column)]


@dataclass(frozen=True)
class PublishedScore:
    """A published figure and the model that it is of."""

    model: str
    value: float


@cache
def published_tables() -> dict[str, PublishedTable]:
    """All tables by id, in the order of the card; speed and memory among them."""
    content = _content()
    tables = {}
    for one in content["tables"]:
        rows = _speed_rows() if one["id"] == "speed" else one["rows"]
        source = content["sources"][one["source"]]
        tables[one["id"]] = PublishedTable(one["id"], one["title"], source, one["columns"], rows, one.get("note", {}))
    return tables


def published_score(
    size: str, precision: str, task: str, figure: str, shots: int, *, is_chat: bool
) -> PublishedScore | None:
    """The published figure of the same task, for a model of a published size ("72b"); None where there is none.

    Figures of quantised chat models were published for 0 shots alone; others are those of the model in BF16.
    """
    name = size.upper()
    tables = published_tables()
    if not is_chat:
        column = _BASE.get((task, shots), "")
        return _score(tables["base"], f"Qwen-{name}", column, f"Qwen-{name}")
    if shots == 0 and (task, figure) in _QUANTIZATION_COLUMNS:
        own, column = PRECISIONS.get(precision, "BF16"), _QUANTIZATION_COLUMNS[task, figure]
        return _score(tables[f"quantization-{size}"], own, column, f"Qwen-{name}-Chat, {own}")
    if task not in _CHAT:
        return None
    row, columns = _CHAT[task]
    label = row.format(size=name, shots=shots)
    return _score(tables[task], label, columns.get(figure, ""), f"Qwen-{name}-Chat, BF16")


def _score(table: PublishedTable, row: str, column: str, model: str) -> PublishedScore | None:
    value = table.value(row, column)
    return None if value is None else PublishedScore(model, value)


def _places(value: Any) -> int:
    """Decimal places of a figure."""
    return len(f"{value:g}".partition(".")[2]) if isinstance(value, float) else 0


def _cell(value: Any, places: int) -> str:
    if isinstance(value, float):
        return f"{value:.{places}f}"
    if isinstance(value, int):
        return f"{value:,}"
    return NONE if value is None else str(value)


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return content


def _headings_zh() -> dict[str, str]:
    found: dict[str, str] = _content()["headings_zh"]
    return found


def _speed_rows() -> list[list[Any]]:
    return [
        [
            f"Qwen-{run.size.upper()}-Chat",
            PRECISIONS[run.precision],
            run.setting,
            run.num_gpus,
            run.prompt_tokens,
            GENERATED_TOKENS,
            run.tokens_per_s or _RAN_OUT,
            run.memory_gib or ("pre-allocated" if run.engine == "vllm" else _RAN_OUT),
        ]
        for run in PUBLISHED_RUNS
    ]
