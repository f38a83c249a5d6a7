"""Tables of a card: the text in cells stays text, and measured, published and difference stand beside each other."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from qwartet.card.scores import PUBLISHED_DATA, comparison_table, quantization_table, score_table, scores
from qwartet.card.subject import architecture_table, compression_table, requirements_table
from qwartet.card.table import Table, fenced, plain
from tests.card.made import INSPECT, card, figure, step, task

HOSTILE = ["a|b", "<script>", "[x](y)", "*bold*", "`code`", "a\nb", "\x1b[31m", "\\", "~~x~~", "&lt;", "# h", "_i_"]


def rendered(text: str) -> str:
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_shows_what_it_is(text: str) -> None:
    html = rendered(Table(["name", "value"], [[text, "1"]]).markdown())
    assert html.count("<td") == 2 and "<strong>" not in html and "<em>" not in html
    assert "<script>" not in html and "href" not in html and "<code>" not in html and "\x1b" not in html


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_is_shown_as_it_is_written(text: str) -> None:
    html = rendered(f"x {plain(text)}")
    shown = html.removeprefix("<p>x ").removesuffix("</p>\n")
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(entity, sign)
    assert shown == text.replace("\n", "\u240a").replace("\x1b", "\u241b")


@pytest.mark.parametrize("text", ["x", "```", "````\nx", "a ``` b ````` c", "~~~"])
def test_no_text_ends_its_block(text: str) -> None:
    html = rendered(f"{fenced(text)}\n\nafter")
    assert html.count("<pre>") == 1 and html.endswith("<p>after</p>\n")


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="has not 2 cells"):
        Table(["a", "b"], [["1"]]).markdown()


def test_measured_published_and_their_difference() -> None:
    table = score_table(card(), "mmlu", "en")
    assert table is not None and list(table.headings) == ["model", "accuracy", "STEM", "questions"]
    assert table.rows == [
        ["int4, 0-shot (measured)", "73.0 (72.0 to 74.0)", "60.0", "100"],
        ["Qwen-72B-Chat, Int4, 0-shot (published)", "73.4", "-", "-"],
        ["difference", "-0.4", "-", "-"],
    ]
    leval = score_table(card(), "leval", "en")
    assert leval is not None and leval.rows[1:] == [
        ["Qwen-72B-Chat, BF16 (published)", "62.3", "86.24", "-"],
        ["difference", "-2.3", "-6.2", "-"],
    ]


def test_needle_depths_are_left_to_the_picture_and_units_are_kept() -> None:
    needle, perplexity = (score_table(card(), name, "en") for name in ("needle", "perplexity"))
    assert needle is not None and list(needle.headings) == ["model", "found", "length 1,024", "questions"]
    assert perplexity is not None and perplexity.rows[0][1] == "2.900"


def test_a_task_that_was_not_run_has_no_table() -> None:
    assert score_table(card(), "ceval", "en") is None


def test_another_model_has_no_difference() -> None:
    other = {**INSPECT, "model": {**INSPECT["model"], "num_layers": 4}}
    data = card(
        step("inspect", other, "small"), step("evaluate", {"tasks": {"mmlu": task([figure("accuracy", 25)])}}, "small")
    )
    table = score_table(data, "mmlu", "en")
    assert table is not None and [row[0] for row in table.rows][3:] == ["small, 0-shot (measured)"]


def test_questions_are_told_from_the_published_ones_by_their_hash() -> None:
    for (name, shots), sha256 in PUBLISHED_DATA.items():
        for given, wanted in ((sha256, True), ("0", False)):
            [score] = scores(card(tasks={name: task([figure("accuracy", 1)], shots, given)}), name)
            assert score.is_published_data is wanted
    [score] = scores(card(), "leval")
    assert score.is_published_data is None


def test_the_effect_of_quantization() -> None:
    table = quantization_table(card(), "en")
    assert table.rows[0] == [
        "int4, Int4 (measured)",
        "73.0 †",
        "not measured",
        "75.3 †",
        "not measured",
        "60.0",
        "99.0",
        "2.900",
    ]
    assert table.rows[1] == ["Qwen-72B-Chat, Int4 (published)", "73.4", "80.1", "75.3", "61.6", "-", "-", "-"]
    assert table.rows[2] == ["difference", "-0.4", "-", "+0.0", "-", "-", "-", "-"]


def test_five_shots_are_not_subtracted_from_none() -> None:
    table = quantization_table(card(tasks={"mmlu": task([figure("accuracy", 70)], shots=5)}), "en")
    assert table.rows[2][1] == "-"


def test_models_in_pairs() -> None:
    pair = {
        "count": 1000, "first": 0.76, "second": 0.75, "low": -0.02, "high": 0.0,
        "num_only_first": 20, "num_only_second": 10, "p_value": 0.0987,
    }  # fmt: skip
    assert comparison_table(card(), "en") is None
    table = comparison_table(card(step("compare", {"tasks": {"gsm8k": pair}}, "bf16")), "en")
    assert table is not None
    assert table.rows == [
        ["int4 / bf16", "gsm8k", "1,000", "76.00", "75.00", "-1.00 (-2.00 to +0.00)", "10", "20", "0.099"]
    ]


def test_facts_of_the_checkpoint() -> None:
    assert requirements_table(card(), "en").rows == [
        ["int4", "38.18 GiB", "32,768", "124.00 GiB", "84.00 GiB", "-", "125.00 GiB"]
    ]
    rows = architecture_table(card(), "en").rows
    assert ["layers (n_layers)", "80", "80"] in rows and ["vocabulary (vocab size)", "151,851", "151,851"] in rows


def test_compression_is_bytes_over_tokens() -> None:
    table = compression_table(card(), "en")
    assert table.rows[0] == ["English", "300", "60", "5.00", "6.00", "+20 %"]
    assert table.rows[1][0] == "Python code"
