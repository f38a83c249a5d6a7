"""The bench of evaluations: questions with one right letter, both ways with the same work, figures that belong."""

from __future__ import annotations

import json
import operator
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwartet import DEMO, LLM
from qwartet.bench.targets import EVALUATION_TARGETS
from qwartet.cli.main import run
from qwartet.errors import EngineFailedError
from qwartet.evaluate.answerers.engine import EngineAnswerer
from qwartet.evaluate.overhead.measure import EvaluationSettings, _offline, _run, _seconds_until, measure_evaluation
from qwartet.evaluate.overhead.questions import ChoiceTask, make_items, write_mmlu
from qwartet.evaluate.question import Answer, Question
from qwartet.evaluate.tasks.mmlu import Mmlu
from tests.evaluate.bundled import tokenizer
from tests.golden_data import REPOSITORY


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(device="cpu") as model:
        yield model


def value_of(question: str, options: list[int]) -> int:
    if question.startswith("Which number is the "):
        return max(options) if "largest" in question else min(options)
    first, sign, second = question.removeprefix("What is ").rstrip("?").split()
    return {"+": operator.add, "-": operator.sub}[sign](int(first), int(second))


def test_the_letter_is_the_only_right_option() -> None:
    items = make_items(500, "seed")
    for item in items:
        options = [int(text) for text in item.options.values()]
        assert len(set(options)) == 4 and int(item.options[item.answer]) == value_of(item.question, options)
    assert {item.answer for item in items} == set("ABCD")
    assert items == make_items(500, "seed") != make_items(500, "other")


@pytest.mark.parametrize("shots", [0, 5])
def test_questions_fit_the_bundled_model_and_begin_with_their_examples(shots: int) -> None:
    questions = ChoiceTask(1000, shots, 0).questions()
    assert len(questions) == len({question.id for question in questions}) == 1000
    assert len({question.prefix for question in questions}) == 20
    for question in questions:
        prompt = question.request.prompt
        assert prompt.startswith(question.prefix) and prompt.count("Answer: ") == shots
        assert len(tokenizer().encode(prompt)) < 400


def test_the_files_are_mmlus(tmp_path: Path) -> None:
    write_mmlu(tmp_path / "data", 120, 5)
    questions = Mmlu(tmp_path / "data", 5).questions()
    assert len(questions) == 3 * 57 and questions[0].request.prompt.count("\nAnswer: ") == 5


@pytest.mark.parametrize("shots", [0, 5])
def test_both_ways_ask_the_engine_the_same(llm: LLM, monkeypatch: pytest.MonkeyPatch, shots: int) -> None:
    asked = []
    add = llm.engine.add_requests
    monkeypatch.setattr(llm.engine, "add_requests", lambda *prompt: asked.append(prompt) or add(*prompt))
    task = ChoiceTask(60, shots, 0)
    _offline(llm, task)
    offline, asked = asked, []
    _run(llm, task)
    assert len(offline) == 60 and asked == offline


def test_the_figures_hang_together(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--questions", "40", "--rounds", "2", "--starts", "0", "--json"]
    assert run(["bench", "evaluation", *options]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    for one in report["rounds"]:
        assert one["share"] == pytest.approx(one["offline_s"] / one["run_s"])
        assert one["cost_5_shot"] == pytest.approx(one["run_5_shot_s"] / one["run_s"])
    assert len(report["rounds"]) == 2 and report["starts"] == [] and "added_s" not in report
    verdicts = [line for line in lines if "the target of" in line]
    assert len(verdicts) == 2 and f"{report['share']:.0%}" in verdicts[0]


def test_a_target_is_reached_or_missed_by_the_median() -> None:
    rounds = [{"share": share, "cost_5_shot": cost} for share, cost in ((0.8, 1.2), (0.9, 1.31), (0.95, 1.4))]
    report = {"rounds": rounds, "starts": [{"added_s": 0.4}]}
    values = [target.value(report) for target in EVALUATION_TARGETS]
    assert values == [0.9, 1.31, 0.4]
    reached = [target.is_reached(value) for target, value in zip(EVALUATION_TARGETS, values, strict=True)]
    assert reached == [True, False, True]
    assert [target.shown(target.wanted) for target in EVALUATION_TARGETS] == ["90%", "1.30x", "1.00 s"]


@pytest.mark.slow  # it starts two processes that load a model
def test_a_start_is_measured_up_to_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    report = measure_evaluation(EvaluationSettings(DEMO, questions=20, rounds=1, starts=1), lambda text: None)
    [start] = report["starts"]
    assert start["loaded_s"] > 0.1 and report["added_s"] == pytest.approx(start["added_s"], abs=1e-4)
    assert start["added_s"] == pytest.approx(start["first_question_s"] - start["loaded_s"])


def test_a_process_that_ends_too_early_is_an_error() -> None:
    with pytest.raises(EngineFailedError, match=r"ended early; run it by itself: .* -c pass"):
        _seconds_until([sys.executable, "-c", "pass"], lambda: False)


def test_a_run_whose_questions_fail_is_not_compared(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(self: EngineAnswerer, waiting: deque[Question]) -> Iterator[tuple[Question, Answer]]:
        while waiting:
            yield waiting.popleft(), Answer(error="")

    monkeypatch.setattr(EngineAnswerer, "answers", answers)
    with pytest.raises(EngineFailedError, match="20 questions failed"):
        _run(llm, ChoiceTask(20, 0, 0))


def test_a_setting_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--questions", "0"], ["--rounds", "0"], ["--starts", "-1"]):
        assert run(["bench", "evaluation", *arguments]) == 2
        assert "must be at least 1" in capsys.readouterr().err
