"""Direct preference optimisation (Rafailov et al. 2023): train on which of two answers is better.

The policy is trained to raise the log-probability of chosen answers over that of rejected ones, relative to the model
as it was before training; beta says how dear it is to move away from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.finetune.batches import Loader
from qwartet.finetune.examples import SAMPLES
from qwartet.finetune.preferences import REFERENCE
from qwartet.finetune.trainer import QwartetTrainer
from qwartet.tokenizer.chatml import IGNORED_LABEL


def dpo_losses(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta ((pi_c - ref_c) - (pi_r - ref_r))) of each pair [B].

    Log-probabilities of answers [2 B], chosen ones first.
    """
    chosen, rejected = (policy - reference).chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected))


def answer_log_probabilities(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Summed log-probabilities of the labelled tokens of each row -> [B] fp32; logits are computed where needed."""
    shifted = F.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED_LABEL)
    columns = (shifted != IGNORED_LABEL).any(0).nonzero()[:, 0]
    result = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], logits_to_keep=columns, use_cache=False
    )
    logits, labels = result.logits.float(), shifted[:, columns]
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
    return -losses.view_as(labels).sum(1)


class PreferenceTrainer(QwartetTrainer):
    """Trains on `Pairs` and their `PairCollator`; logs the share of pairs in which the chosen answer is ahead."""

    def __init__(self, *args: Any, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta = beta
        self.loss_is_scaled_for_ga = True  # by compute_loss
        self._margins: list[Tensor] = []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer.train; first computes the reference, with the model as it is loaded."""
        for examples in (self.work.train_set, self.work.eval_set):
            if examples is not None:
                self._compute_reference(examples)
        return super().train(*args, **kwargs)

    @torch.no_grad()
    def _compute_reference(self, pairs: Any) -> None:
        """Every process computes a part."""
        was_training = self.model.training
        self.model.eval()
        size, rank = self.args.per_device_train_batch_size, self.args.process_index
        batches = [list(range(start, min(start + size, len(pairs)))) for start in range(0, len(pairs), size)]
        own = batches[rank :: self.args.world_size]
        found = torch.zeros(len(pairs), 2, device=self.args.device)
        for batch, inputs in zip(own, Loader(pairs, batch_sampler=own, collate_fn=self.work.collate), strict=True):
            inputs.pop(SAMPLES)
            with self.compute_loss_context_manager():
                scores = answer_log_probabilities(self.model, self._prepare_inputs(inputs))
            found[batch] = scores.view(2, -1).T
        pairs.reference = (self.accelerator.reduce(found) if self.args.world_size > 1 else found).cpu()
        self.model.train(was_training)

    def num_items(self, inputs: Mapping[str, Any]) -> int:
        """Pairs."""
        return len(inputs["input_ids"]) // 2

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        count = torch.tensor(sum(map(self.num_items, batch_samples)), device=device)
        return self.accelerator.gather(count).sum()

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss over the pairs of a step, or of these inputs."""
        policy, reference = answer_log_probabilities(model, inputs), inputs[REFERENCE]
        losses = dpo_losses(policy, reference, self.beta)
        if model.training:
            chosen, rejected = (policy - reference).detach().chunk(2)
            self._margins.append(self.beta * (chosen - rejected))
        if num_items_in_batch is None:
            return losses.mean()
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes  # which are averaged

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._margins:
            margins = torch.cat(self._margins)
            logs |= {"margin": round(float(margins.mean()), 4), "accuracy": float((margins > 0).float().mean())}
            self._margins.clear()
        super().log(logs, start_time)
