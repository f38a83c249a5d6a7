"""The published tables are complete and consistent, and every score of ours finds the published one beside it."""

from __future__ import annotations

import pytest

from qwartet.card.document import TASKS
from qwartet.card.published import _BASE, _CHAT, _QUANTIZATION_COLUMNS, published_score, published_tables
from qwartet.planning.published_figures import PUBLISHED_RUNS


def test_every_row_has_its_columns_and_every_text_both_languages() -> None:
    for table in published_tables().values():
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows), table.id
        assert set(table.title) == set(table.source) == {"en", "zh"} and set(table.note) in (set(), {"en", "zh"})
        for language in ("en", "zh"):
            assert table.table(language).markdown().count("\n") == len(table.rows) + 1


@pytest.mark.parametrize(
    ("id", "row", "column", "value"),
    [
        ("quantization-72b", "Int4", "MMLU", 73.4),
        ("quantization-72b", "Int8", "GSM8K", 73.5),
        ("quantization-1.8b", "Int4", "C-Eval (val)", 52.8),
        ("ceval", "Qwen-72B-Chat (5-shot)", "Avg. Acc.", 82.9),
        ("ceval-test", "Qwen-72B-Chat", "Social Sciences", 89.1),
        ("mmlu", "ChatGPT4", "Avg. Acc.", 83.0),
        ("humaneval", "Qwen-14B-Chat", "Pass@1", 43.9),
        ("gsm8k", "Qwen-72B-Chat (8-shot)", "Acc.", 75.7),
        ("leval", "Qwen-72B-Chat", "CodeU", 6.66),
        ("tools", "Qwen-72B-Chat", "False Positive Error", 1.1),
        ("code-interpreter", "Qwen-72B-Chat", "Math", 72.7),
        ("base", "Qwen-72B", "CMMLU (5-shot)", 83.6),
        ("perplexity", "Qwen-72B", "32,768", 2.72),
        ("perplexity", "Qwen-72B", "1,024", None),
    ],
)
def test_figures_read_off_the_card(id: str, row: str, column: str, value: float | None) -> None:
    assert published_tables()[id].value(row, column) == value


def test_what_was_not_published_is_no_figure() -> None:
    table = published_tables()["mmlu"]
    assert table.value("Qwen-3B", "Avg. Acc.") is None and table.value("ChatGPT4", "STEM") is None


def test_speed_has_every_run_and_those_that_ran_out_of_memory_say_so() -> None:
    table = published_tables()["speed"]
    assert len(table.rows) == len(PUBLISHED_RUNS)
    ran_out = [row for row in table.rows if row[-2:] == ["OOM", "OOM"]]
    assert [row[1:5] for row in ran_out] == [
        ["Int8", "HF + No FlashAttn", 4, 14_336],
        ["Int4", "HF + No FlashAttn", 3, 14_336],
    ]
    card_rows = [row for row in table.rows if row[0] == "Qwen-72B-Chat"]
    assert len(card_rows) == 37  # rows of the card's table


def test_every_task_of_the_card_has_its_published_table() -> None:
    assert set(TASKS) <= set(published_tables())


@pytest.mark.parametrize("size", ["1.8b", "7b", "14b", "72b"])
def test_zero_shot_figures_are_those_of_the_same_precision(size: str) -> None:
    for task, figure in _QUANTIZATION_COLUMNS:
        for precision, name in (("bf16", "BF16"), ("int8", "Int8"), ("int4", "Int4")):
            score = published_score(size, precision, task, figure, 0, is_chat=True)
            assert score is not None and score.model == f"Qwen-{size.upper()}-Chat, {name}"


def test_every_other_figure_of_the_72b_card_is_found() -> None:
    for task, (row, figures) in _CHAT.items():
        shots = {"gsm8k": 8}.get(task, 5) if "{shots}" in row else 0
        for figure in figures:
            score = published_score("72b", "int4", task, figure, shots, is_chat=True)
            assert score is not None and score.value > 0, (task, figure)
    assert published_score("72b", "int4", "mmlu", "accuracy", 5, is_chat=True).value == 75.0
    assert published_score("72b", "int4", "mmlu", "accuracy", 3, is_chat=True) is None
    assert published_score("72b", "int4", "mmlu", "STEM", 0, is_chat=True) is None


def test_base_models_have_figures_of_their_own() -> None:
    for (task, shots), column in _BASE.items():
        score = published_score("72b", "bf16", task, "accuracy", shots, is_chat=False)
        assert score is not None and score.value == published_tables()["base"].value("Qwen-72B", column)
    assert published_score("72b", "bf16", "mmlu", "accuracy", 0, is_chat=False) is None
