"""Preference optimisation against trl's, and on our model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import qwartet.hf  # noqa: F401  (registers the model)
from qwartet.finetune.batches import Batches
from qwartet.finetune.dpo import PreferenceTrainer, answer_log_probabilities, dpo_losses
from qwartet.finetune.examples import example_of
from qwartet.finetune.preferences import PairCollator, Pairs
from qwartet.finetune.run import train
from qwartet.finetune.settings import Settings
from qwartet.finetune.trainer import Work
from tests.hf.loaded import load

VOCAB = 64
Rows = list[dict[str, list[int]]]


class NoFiles:
    """Weights are not kept."""

    def write(self, *args: Any, **kwargs: Any) -> None:
        pass

    def read(self, directory: Path) -> dict[str, torch.Tensor]:
        return {}


@pytest.fixture
def rows() -> Rows:
    rng = np.random.default_rng(0)
    lengths = {"prompt": (3, 9), "chosen": (2, 7), "rejected": (2, 7)}
    return [
        {name: rng.integers(1, VOCAB, rng.integers(*bounds)).tolist() for name, bounds in lengths.items()}
        for _ in range(8)
    ]


def pairs_of(rows: Rows) -> Pairs:
    def example(row: dict[str, list[int]], answer: str) -> Any:
        prompt, ids = row["prompt"], row[answer]
        return example_of("row", prompt + ids, [-100] * len(prompt) + ids)

    return Pairs([(example(row, "chosen"), example(row, "rejected")) for row in rows])


def run(model: Any, pairs: Pairs, output: Path, **settings: Any) -> list[dict[str, Any]]:
    """The log of two epochs, in the order of the pairs."""
    work = Work(pairs, Batches([[0, 1], [2, 3], [4, 5], [6, 7]], shuffles=False), PairCollator(0), NoFiles())
    given = Settings(
        method="full", learning_rate=1e-2, num_train_epochs=2, gradient_accumulation_steps=2, weight_decay=0.0,
        lr_scheduler_type="constant", warmup_ratio=0.0, gradient_checkpointing=False, **settings,
    )  # fmt: skip
    train(model, work, given, output, device=torch.device("cpu"), dtype=torch.float32, make_trainer=PreferenceTrainer)
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_losses_margins_and_gradients_are_trls(rows: Rows, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config)
    ours = copy.deepcopy(theirs)
    words = Tokenizer(WordLevel({f"t{number}": number for number in range(VOCAB)}, unk_token="t1"))

    class Oracle(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    settings = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=2, gradient_accumulation_steps=2,
        num_train_epochs=2, learning_rate=1e-2, lr_scheduler_type="constant", beta=0.1, adam_beta2=0.95,
        max_grad_norm=1.0, logging_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    oracle = Oracle(
        model=theirs, ref_model=copy.deepcopy(theirs), args=settings,
        train_dataset=Dataset.from_list([{f"{name}_ids": ids for name, ids in row.items()} for row in rows]),
        processing_class=transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="t0", eos_token="t1"
        ),
    )  # fmt: skip
    oracle.train()
    expected = [entry for entry in oracle.state.log_history if "loss" in entry]
    found = [entry for entry in run(ours, pairs_of(rows), tmp_path / "ours") if "loss" in entry]
    assert len(found) == len(expected) == 4
    for ours_, theirs_ in zip(found, expected, strict=True):
        assert ours_["loss"] == pytest.approx(theirs_["loss"], abs=1e-5)
        assert ours_["grad_norm"] == pytest.approx(theirs_["grad_norm"], rel=1e-4)
        assert ours_["margin"] == pytest.approx(theirs_["rewards/margins"], abs=1e-4)
        assert ours_["accuracy"] == theirs_["rewards/accuracies"]


def test_the_loss_of_given_log_probabilities() -> None:
    policy, reference = torch.tensor([-1.0, -2.0, -3.0, -2.0]), torch.tensor([-2.0, -2.0, -2.0, -2.0])
    expected = [-torch.tensor(0.5 * 2.0).sigmoid().log(), torch.tensor(2.0).log()]
    torch.testing.assert_close(dpo_losses(policy, reference, 0.5), torch.stack(expected))


@pytest.mark.parametrize("is_training", [False, True])
def test_log_probabilities_are_those_of_the_whole_logits(rows: Rows, is_training: bool) -> None:
    model = load("tiny-72b", dtype="float32").train(is_training)
    pairs = pairs_of(rows)
    batch = PairCollator(0)([pairs[index] for index in range(3)])
    with torch.no_grad():
        found = answer_log_probabilities(model, batch)
        for row, value in enumerate(found):
            length = int(batch["attention_mask"][row].sum())
            ids, labels = batch["input_ids"][row, :length], batch["labels"][row, :length]
            logs = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
            expected = sum(logs[place - 1, label] for place, label in enumerate(labels) if label >= 0)
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-4)


def test_our_model_learns_to_prefer(rows: Rows, tmp_path: Path) -> None:
    model = load("tiny-72b", dtype="float32")
    log = [entry for entry in run(model, pairs_of(rows), tmp_path) if "loss" in entry]
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-6), "at first, the model is its own reference"
    assert log[-1]["accuracy"] == 1.0 and log[-1]["margin"] > 0.1
