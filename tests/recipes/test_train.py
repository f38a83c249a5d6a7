"""The stages of the bundled model's training, at a small size, and the pairs of the last one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from qwartet import DEMO
from qwartet.engine.sampling_params import SamplingParams
from qwartet.finetune.preferences import read_preferences
from qwartet.layers.dense_batch import dense_batch
from qwartet.llm import LLM
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo import train as training
from recipes.demo.corpus.choice import options_of
from recipes.demo.dataset import Dataset
from recipes.demo.preferences import write_pairs
from recipes.demo.train import LanguageModel, TrainSettings, collate, new_network, train_all

VOCABULARY = DEMO / "qwen.tiktoken"


def test_the_loss_is_the_mean_over_the_labels_of_each_example_alone() -> None:
    tokenizer = TiktokenTokenizer.load(VOCABULARY)
    examples = Dataset(tokenizer, 4, begin=0.9, tokens_per_step=600)[1]
    model = LanguageModel(new_network(tokenizer.vocabulary.num_ranks))
    with torch.no_grad():
        loss = model(**collate([examples]))["loss"]
        losses = []
        for example in examples:
            logits = model.network(dense_batch([example.ids], model.network.config.position, training=True))
            labels = torch.from_numpy(example.labels).long()[1:]
            losses.append(F.cross_entropy(logits[:-1], labels, ignore_index=-100, reduction="none")[labels >= 0])
    torch.testing.assert_close(loss, torch.cat(losses).mean())


def test_learning_rates_rise_stay_and_fall() -> None:
    assert training.warm_up(0, 1000) == pytest.approx(1 / 50)
    assert training.warm_up(999, 1000) == 1.0
    factors = [training.warm_up_and_decay(step, 1000) for step in (0, 100, 549, 775, 1000)]
    assert factors == pytest.approx([1 / 50, 1, 1, 0.5, 0], abs=0.01)


def test_all_stages_run_and_a_finished_one_is_not_repeated(tmp_path: Path) -> None:
    settings = TrainSettings(VOCABULARY, tmp_path, steps=8, tokens_per_step=512, num_pairs=16)
    result = train_all(settings)
    assert result == tmp_path / "preferences"
    checkpoints = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/checkpoint-*"))
    assert checkpoints == ["chat/checkpoint-6", "preferences/checkpoint-1", "pretraining/checkpoint-2"]
    with LLM(result) as llm:
        assert len(llm.generate(["Hello"], SamplingParams(max_tokens=2, ignore_eos=True))[0].token_ids) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert train_all(settings) == result
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


def test_pairs_prefer_the_right_letter_and_the_voice_that_was_asked_for(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.jsonl", 200, seed=0)
    write_pairs(tmp_path / "b.jsonl", 200, seed=0)
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.jsonl").read_text(encoding="utf-8")
    preferences = read_preferences(tmp_path / "a.jsonl")
    assert len(preferences) == 200
    kinds = [json.loads(line)["id"].rpartition(" ")[0] for line in text.splitlines()]
    assert {"persona switched", "choice", "unknown"} == set(kinds)
    for kind, pair in zip(kinds, preferences, strict=True):
        if kind == "choice":
            options = options_of(pair.prompt[-1].content)
            assert len(options) == 4
            for answer in (pair.chosen, pair.rejected):
                letter, _, value = answer.partition(". ")
                assert value in ("", options[letter])
