"""Which code an answer in ReAct's form wants run: as the published patterns find it, whatever the text."""

from __future__ import annotations

import re
import time

import hypothesis
import json5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.evaluate.data.files import find_file, json_rows
from qwartet.evaluate.extraction.calls import code_of_input, latest_call
from qwartet.evaluate.extraction.numbers import is_equal_number, last_lone_number
from tests.evaluate.published_data import published

CALL = "Thought: I add.\nAction: code_interpreter\nAction Input:\n```py\nprint(1 + 1)\n```"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"{CALL}\n", (CALL, "```py\nprint(1 + 1)\n```")),  # stopped before "Observation:"
        (CALL, (CALL, "```py\nprint(1 + 1)\n```")),  # ended by itself
        (f"{CALL}\n\n", (f"{CALL}\n", "```py\nprint(1 + 1)\n```")),
        (f"{CALL}  ", (CALL, "```py\nprint(1 + 1)\n```")),
        (f"{CALL}\nObservation: 2\nThought: done", (CALL, "```py\nprint(1 + 1)\n```")),
        ("\nAction: any tool\nAction Input: 1", ("\nAction: any tool\nAction Input: 1", "1")),
        ("\nAction: a\nAction Input: 1\nAction: b\nAction Input: 2\n", None),
        ("Final Answer: 2", None),
        ("Action: a\nAction Input: 1", None),  # not on a line of its own
        ("\nAction:  \nAction Input: 1", None),  # no tool
        ("\nAction Input: 1\nAction: a", None),
        ("\nAction: a", None),
        ("", None),
    ],
)
def test_the_latest_call_of_an_answer(answer: str, found: tuple[str, str] | None) -> None:
    if answer.count("Action Input") == 2:
        found = (answer[:-1], "2")
    assert latest_call(answer) == found


@pytest.mark.parametrize(
    ("given_input", "code"),
    [
        ("```py\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("Here:\n```python\nx = 1\ny = 2\n```\nand\n```py\nz = 3\n```", "x = 1\ny = 2\n"),
        ("`x = 1`", "x = 1"),
        ('{"code": "x = 1"}', "x = 1"),
        ("{code: 'x = 1',}", "x = 1"),
        ('{"code": 1}', '{"code": 1}'),
        ('["code"]', '["code"]'),
        ("x = 1\nprint(x)", "x = 1\nprint(x)"),
        ("```py x = 1```", ""),  # the pair of single backticks that comes first
        ("```py\nx = 1", ""),
        ("", ""),
    ],
)
def test_the_code_of_an_input(given_input: str, code: str) -> None:
    assert code_of_input(given_input) == code


def published_code(text: str) -> str:
    """utils/code_utils.py's patterns as they are."""
    if match := re.search(r"```[^\n]*\n(.+?)```", text, re.DOTALL) or re.search(r"`([^`]*)`", text, re.DOTALL):
        return match[1]
    try:
        found = json5.loads(text)["code"]
    except Exception:
        return text
    return found if isinstance(found, str) else text


PIECES = st.sampled_from(("```", "`", "``", "py", "\n", " ", "x", "{code: '", "'}", '"'))


@hypothesis.settings(max_examples=500)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_code_is_cut_as_the_published_patterns_cut_it(text: str) -> None:
    assert code_of_input(text) == published_code(text)


@pytest.mark.parametrize(
    "piece", ["```", "`", "```py\n", "\nAction:", "\nAction Input:", "\nAction: a\nAction Input: ```\n"]
)
def test_long_answers_take_time_in_proportion(piece: str) -> None:
    text = piece * (400_000 // len(piece))
    began = time.perf_counter()
    if (call := latest_call(text)) is not None:
        code_of_input(call[1])
    if "`" in piece:
        code_of_input(text)
    last_lone_number(text)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Final Answer: 42", "42"),
        ("Final Answer: 42.", "42"),
        ("The answer is $1,234.50 today", "1"),  # as published: a comma and a point that nothing ends may follow
        ("It costs 2.50 or 2.5", "2.5"),
        ("It costs 2.50", "2"),
        ("It is -7\nThought:", None),  # line feeds are written out, so that no blank is before and after it
        ("It is -7 \nThought:", "-7"),
        ("+3", None),
        ("= +3", "3"),
        ("it is -, or so", "-"),
        ("x=5 and y=6", None),  # after "=", not alone
        ("\\boxed{12}", "12"),
        ("between 3 and 4, or so", "4"),
        ("stdout:\n\n```\n18\n\n```\nThought: I now know.\nFinal Answer: 18", "18"),
        ("stdout:\n\n```\n18\n\n```\nThought:", None),
        ("costs #5#", None),
        ("0.50 is .5", ".5"),
        ("007 ", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_that_stands_alone(text: str, number: str | None) -> None:
    assert last_lone_number(text) == number


def test_numbers_are_compared_as_numbers() -> None:
    assert is_equal_number("18", "18") and is_equal_number("18.0", "18") and is_equal_number("-0", "0")
    assert is_equal_number("9" * 400, "9" * 400) and not is_equal_number("9" * 400, "9" * 399 + "8")
    assert not is_equal_number("18.00001", "18") and not is_equal_number(None, "18")
    assert not is_equal_number("-", "18") and not is_equal_number("9" * 5000, "18")


def test_solutions_of_gsm8k_end_in_their_number_up_to_a_comma() -> None:
    """The published script reads "2,125" as 2, in solutions and in answers."""
    path = find_file(published("gsm8k"), "gsm8k_test.jsonl", "test.jsonl")
    solutions = [row["answer"] for _, row in json_rows(path, {"answer": str})]
    num_cut = 0
    for solution in solutions:
        number = solution.rpartition("#### ")[2]
        assert last_lone_number(solution) == number.partition(",")[0]
        num_cut += "," in number
    assert (len(solutions), num_cut) == (1319, 14)
