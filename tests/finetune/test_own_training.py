"""`train` on other data, from scratch, with its own optimizer and loss: what the bundled model's training needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwartet.finetune.batches import Batches
from qwartet.finetune.examples import Collator, Example
from qwartet.finetune.weights import FullModel
from tests.finetune.runs import settings_for, tensors_of  # skips the module where the extra is missing
from tests.tiny_checkpoint import Copy

from qwartet.finetune.run import train  # isort: skip
from qwartet.finetune.trainer import QwartetTrainer, Work  # isort: skip
from qwartet.hf import QWenConfig, QWenLMHeadModel  # isort: skip


class Windows(torch.utils.data.Dataset[Example]):
    """Windows of a text that counts: example i is i, i + 1, ..."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Example:
        ids = np.arange(index, index + 12, dtype=np.int32) % 300
        return Example(str(index), ids, ids.copy())


def pretrain(base: Path, output: Path, **given: Any) -> Any:
    torch.manual_seed(0)
    model = QWenLMHeadModel(QWenConfig.from_pretrained(base)).float()
    rates: list[tuple[int, int]] = []

    def factor(step: int, total: int) -> float:
        rates.append((step, total))
        return 1 - step / total

    work = Work(
        train_set=Windows(),
        batches=Batches(40, size=8, shuffles=False),
        collate=Collator(0),
        weights=FullModel(base, torch.bfloat16),
        make_optimizer=lambda one: torch.optim.SGD(one.parameters(), lr=0.5, momentum=0.9),
        learning_rate=factor,
    )
    settings = settings_for("full", gradient_accumulation_steps=1, num_train_epochs=2, save_steps=5)
    summary = train(model, work, settings, output, device=torch.device("cpu"), dtype=torch.float32, **given)
    return summary, rates


def test_a_model_is_trained_from_scratch_with_an_optimizer_and_a_schedule_of_its_own(
    pristine: Copy, tmp_path: Path
) -> None:
    summary, rates = pretrain(pristine(), tmp_path / "out")
    assert summary.steps == 10 and summary.losses[-1][1] < summary.losses[0][1]
    assert summary.tokens == 2 * 40 * 12
    assert max(rates) == (10, 10)
    assert not (tmp_path / "out" / "checkpoint-5" / "optimizer.json").read_text().count("betas")
    assert len(tensors_of(tmp_path / "out")) == 19


def test_a_subclass_has_a_loss_of_its_own(pristine: Copy, tmp_path: Path) -> None:
    class Halved(QwartetTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs) / 2

    usual, _ = pretrain(pristine(), tmp_path / "one")
    halved, _ = pretrain(pristine(), tmp_path / "two", make_trainer=Halved)
    assert halved.losses[0][1] == pytest.approx(usual.losses[0][1] / 2, rel=1e-6)
