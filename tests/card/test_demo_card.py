"""docs/demo_card is what `make demo-card` made: files follow from card.json, and figures can be repeated."""

from __future__ import annotations

import pytest

from qwartet import DEMO, LLM
from qwartet.card.file import CardData, read_card
from qwartet.card.files import card_files
from qwartet.card.scores import scores
from qwartet.card.steps import PROMPTS
from qwartet.evaluate.answerers.engine import EngineAnswerer
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.tasks.gsm8k import Gsm8k
from recipes.demo import benchmarks
from tests.golden_data import REPOSITORY

DIRECTORY = REPOSITORY / "docs" / "demo_card"


@pytest.fixture(scope="module")
def data() -> CardData:
    return read_card(DIRECTORY / "card.json")


def test_its_files_follow_from_what_was_measured(data) -> None:
    pictures = {path.name: path.read_bytes() for path in DIRECTORY.glob("*.svg")}
    made = card_files(data, pictures)
    there = {path.name: path.read_bytes() for path in DIRECTORY.iterdir() if path.name != "card.json"}
    assert set(made) == set(there)
    for name, content in made.items():
        assert content == there[name], f"{name} differs; run qwartet card --collect --out docs/demo_card"


def test_nothing_of_it_failed(data) -> None:
    assert data.models == ("demo",) and len(data.steps) == 8
    assert [step.failure for step in data.steps] == [None] * 8
    assert {name for counts in data.compression.values() for name in counts} == {
        *("bytes", "this", "cl100k_base", "o200k_base")
    }


def test_the_model_still_answers_so(data) -> None:
    with LLM(DEMO) as llm:
        for step, (system, prompt) in zip(data.of("answer"), PROMPTS, strict=True):
            given = {} if system is None else {"system": system}
            assert llm.chat(prompt, temperature=0, **given)[0] == (step.output or {})["response"]


def test_the_model_still_scores_so(data, tmp_path) -> None:
    """The same questions, by their hash; rounding on another processor may turn one answer in a hundred."""
    [score] = scores(data, "gsm8k")
    benchmarks.write(tmp_path / "data")
    task = Gsm8k(tmp_path / "data", 0)
    assert task.settings["sha256"] == score.sha256
    answerer = EngineAnswerer(LLM(DEMO))
    try:
        result = run_task(task, answerer, RunSettings(tmp_path / "run", limit=200))
    finally:
        answerer.close()
    assert result.figures[0].value == pytest.approx(score.figures[0]["value"], abs=1.0)
