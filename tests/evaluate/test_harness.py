"""lm-eval with our engine: its log-likelihoods, choices and texts are our own, question by question."""

from __future__ import annotations

import csv
import json
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwartet import LLM
from qwartet.errors import SettingError
from qwartet.evaluate.answerers.engine import EngineAnswerer
from qwartet.evaluate.harness import run_harness
from qwartet.evaluate.question import Choose, Question
from tests.evaluate.published_data import published

pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'harness')")
LETTERS = "ABCD"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(device="cpu") as model:
        yield model


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def write_task(folder: Path, name: str, rows: list[dict], body: str) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n{body}"
    )


def as_text(row: list[str]) -> str:
    options = "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0]}\n{options}Answer:"


def test_choices_agree_question_by_question_on_real_mmlu_questions(llm: LLM, tmp_path: Path) -> None:
    file = published("mmlu") / "test" / "astronomy_test.csv"
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [{"text": as_text(row), "gold": LETTERS.index(row[5])} for row in csv.reader(opened)][:40]
    write_task(
        tmp_path, "astronomy", rows,
        'output_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_target: "{{gold}}"\n'
        'doc_to_choice: ["A", "B", "C", "D"]\nmetric_list: [{metric: acc}]\n',
    )  # fmt: skip
    found = run_harness(llm, ["astronomy"], include_path=tmp_path)
    questions = [
        Question(str(n), "", Choose(row["text"], tuple(f" {letter}" for letter in LETTERS)), None)
        for n, row in enumerate(rows)
    ]
    own = {int(question.id): answer for question, answer in EngineAnswerer(llm).answers(deque(questions))}
    right = 0
    for sample in found["samples"]["astronomy"]:
        theirs = [float(one[0]) for one in sample["filtered_resps"]]
        ours = own[sample["doc_id"]].logprobs
        assert theirs == pytest.approx(ours, abs=1e-4)
        right += max(range(4), key=lambda n: ours[n]) == rows[sample["doc_id"]]["gold"]
    assert found["results"]["astronomy"]["acc,none"] == pytest.approx(right / len(rows))


def test_texts_are_generated_up_to_the_stop_string_and_by_chat(llm: LLM, tmp_path: Path) -> None:
    rows = [{"text": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}"} for n in range(1, 9)]
    body = (
        'output_type: generate_until\ndoc_to_text: "{{text}}"\ndoc_to_target: "{{answer}}"\n'
        "generation_kwargs: {until: [], max_gen_toks: 20}\nmetric_list: [{metric: exact_match}]\n"
    )
    write_task(tmp_path, "sums", rows, body)
    by_chat = run_harness(llm, ["sums"], include_path=tmp_path, apply_chat_template=True)
    texts = {sample["doc_id"]: sample["filtered_resps"][0] for sample in by_chat["samples"]["sums"]}
    for n, row in enumerate(rows):
        expected, _ = llm.chat(row["text"], temperature=0, max_tokens=20, repetition_penalty=1.0)
        assert texts[n].strip() == expected
    assert by_chat["results"]["sums"]["exact_match,none"] > 0.5  # the bundled model can add small numbers


def test_a_whole_text_is_scored_in_windows(llm: LLM, tmp_path: Path) -> None:
    text = " ".join(f"{n} + {n} = {2 * n}," for n in range(60))
    body = (
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list: [{metric: word_perplexity}]\n"
    )
    write_task(tmp_path, "text", [{"text": text}], body)
    found = run_harness(llm, ["text"], include_path=tmp_path)
    ids = llm.tokenizer.encode(text)
    [whole] = llm.loglikelihood([([llm.tokenizer.eod_id], ids)])
    words = len(text.split(" "))
    assert len(ids) < llm.engine.max_model_len
    expected = math.exp(-whole.logprob / words)
    assert found["results"]["text"]["word_perplexity,none"] == pytest.approx(expected, rel=1e-4)


def test_tasks_that_run_code_and_unknown_ones_are_refused(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="model-written code"):
        run_harness(llm, ["humaneval"], include_path=tmp_path)
    with pytest.raises(SettingError, match="no task 'astrology'"):
        run_harness(llm, ["astrology"], include_path=tmp_path)
