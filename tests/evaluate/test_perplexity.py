"""Perplexity: windows predict every token once, and figures equal those of the network's own logits."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path

import pytest

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.answerers.engine import EngineAnswerer
from qwartet.evaluate.question import Answer, Choose
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.tasks.perplexity import Perplexity, PerplexitySettings, windows
from qwartet.llm import LLM
from tests.evaluate.bundled import tokenizer
from tests.evaluate.fake import FakeAnswerer

TEXT = "23 + 45 = 68. 你好，我是一个很小的模型。 The sum of two numbers is a number. " * 8


@pytest.mark.parametrize(
    ("num_tokens", "length", "stride"), [(1000, 256, 128), (100, 256, 128), (513, 256, 255), (7, 2, 1)]
)
def test_every_token_but_the_first_is_predicted_once(num_tokens: int, length: int, stride: int) -> None:
    found = list(windows(num_tokens, length, stride))
    assert [token for _, first, end in found for token in range(first, end)] == list(range(1, num_tokens))
    assert all(start < first < end <= start + length for start, first, end in found)
    assert all(end - start == length for start, _, end in found[1:])  # the context is never shorter than it can be


def test_no_window_of_one_token() -> None:
    assert list(windows(1, 16, 8)) == [] == list(windows(0, 16, 8))


def test_figures_equal_the_networks_own_logits(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    settings = PerplexitySettings(path, (64, 128))
    with LLM(dtype="fp32") as llm:  # in 16 bits, blocks of a cache and one dense pass round differently by 3e-3
        task = Perplexity(tmp_path, settings, llm.tokenizer, llm.engine.max_model_len)
        result = run_task(task, EngineAnswerer(llm), RunSettings(tmp_path / "out"))
        ids = llm.tokenizer.encode(TEXT)
        expected = {}
        for length in (64, 128):
            nats = 0.0
            for start, first, end in windows(len(ids), length, length // 2):
                logprobs = torch.log_softmax(llm.logits(ids[start:end]).double(), -1)
                nats -= sum(float(logprobs[place - 1 - start, ids[place]]) for place in range(first, end))
            num_bytes = len(TEXT.encode()) - len(llm.tokenizer.decode_bytes(ids[0]))
            expected[f"perplexity at {length}"] = exp(nats / (len(ids) - 1))
            expected[f"bits per byte at {length}"] = nats / log(2) / num_bytes
    figures = {one.name: one.value for one in result.figures}
    assert figures == pytest.approx(expected, rel=1e-3)
    assert result.figures[0].name == "perplexity at 128" and result.figures[0].count == len(ids) - 1
    assert figures["perplexity at 128"] != pytest.approx(figures["perplexity at 64"], rel=1e-3)  # lengths differ


def test_known_log_probabilities_give_the_known_figures(tmp_path: Path) -> None:
    """Half a nat for each token."""
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    lines = [json.dumps({"text": text}) for text in (TEXT, "x", "short one")]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def reply(question) -> Answer:
        assert isinstance(question.request, Choose)
        [choice] = question.request.choices
        return Answer(logprobs=(-0.5 * len(choice),), num_tokens=(len(choice),))

    task = Perplexity(tmp_path, PerplexitySettings(lengths=(32,), stride=8), tokenizer(), 2048)
    result = run_task(task, FakeAnswerer(reply), RunSettings(tmp_path / "out"))
    perplexity, bits = result.figures
    num_tokens = 2 * (len(tokenizer().encode(TEXT)) - 1) + len(tokenizer().encode("short one")) - 1
    assert (perplexity.value, perplexity.count) == (pytest.approx(exp(0.5)), num_tokens)
    first = [len(tokenizer().decode_bytes(tokenizer().encode(text)[0])) for text in (TEXT, TEXT, "short one")]
    num_bytes = 2 * len(TEXT.encode()) + len("short one") - sum(first)
    assert bits.value == pytest.approx(0.5 * num_tokens / log(2) / num_bytes) and bits.count == num_bytes
    _, records = read_run(tmp_path / "out" / "perplexity.jsonl")
    assert records[0].prompt == {"prompt": "<1 tokens>", "choices": ["<31 tokens>"]}
    assert all(record.score == pytest.approx(exp(-0.5)) for record in records)
    assert {record.id.split("/")[2] for record in records} == {"a.txt", "b.jsonl:1", "b.jsonl:3"}


def test_windows_above_the_context_are_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(TEXT, encoding="utf-8")
    task = Perplexity(tmp_path, PerplexitySettings(lengths=(64, 4096)), tokenizer(), 2048)
    assert {one.group for one in task.questions()} == {"64"}
    answerer = FakeAnswerer(lambda question: Answer("x"))
    answerer.is_chat, answerer.work = True, float
    assert next(task.forecast(answerer)) == (
        "perplexity: left out 4,096: longer than the model's context of 2,048 tokens"
    )
    with pytest.raises(SettingError, match="no window fits the model's context of 32 tokens"):
        Perplexity(tmp_path, PerplexitySettings(lengths=(64,)), tokenizer(), 32)


def test_bad_input_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text here"):
        Perplexity(tmp_path, PerplexitySettings(), tokenizer(), 2048)
    with pytest.raises(DataError, match="no such file or directory"):
        Perplexity(tmp_path, PerplexitySettings(tmp_path / "none"), tokenizer(), 2048)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"txt": "y"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2: the field 'text' is missing"):
        Perplexity(tmp_path, PerplexitySettings(), tokenizer(), 2048).questions()
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no text of two tokens"):
        Perplexity(tmp_path, PerplexitySettings(), tokenizer(), 2048).questions()
    with pytest.raises(SettingError, match="--perplexity-length is 1"):
        PerplexitySettings(lengths=(1,))
    with pytest.raises(SettingError, match="--perplexity-stride is 64"):
        PerplexitySettings(lengths=(64,), stride=64)
