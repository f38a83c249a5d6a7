"""Conversations -> examples of ids and labels, and their batches for the network.

A batch is padded on the right; padding is neither computed (hf/batches.py leaves it out in training) nor learned.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from qwartet.errors import DataWarning
from qwartet.finetune.conversations import Conversation, report_problems
from qwartet.tokenizer.chatml import IGNORED_LABEL, LossOn, training_example
from qwartet.tokenizer.tokenizer import Tokenizer

SAMPLES = "samples"
"""Key of a batch under which the names of its examples stand; the network does not see it."""

_LOSS_ONLY = {"return_logits": False, "use_cache": False}  # arguments of QWenLMHeadModel


@dataclass(frozen=True)
class Example:
    """One sample: int32 [T] each; -100 in `labels` is not learned. Labels are not shifted."""

    name: str
    ids: NDArray[np.int32]
    labels: NDArray[np.int32]


def example_of(name: str, ids: Sequence[int], labels: Sequence[int]) -> Example:
    """A sample from lists."""
    return Example(name, np.array(ids, np.int32), np.array(labels, np.int32))


class Examples(Dataset[Example]):
    """Examples in the order of their file."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = list(examples)
        self.lengths = [len(example.ids) for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def encode(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    max_length: int,
    file: Path,
    loss_on: LossOn = "published",
) -> Examples:
    """Ids and labels by the published rules, cut at max_length; `file` is for messages.

    Warns how many were cut; DataError for those of which no token of an answer is left.
    """
    examples, problems, cut = [], [], []
    for conversation in conversations:
        ids, labels = training_example(tokenizer, conversation.messages, max_length + 1, loss_on)
        if len(ids) > max_length:
            cut.append(conversation.name)
            _, answers = training_example(tokenizer, conversation.messages, max_length, "assistant")
            if all(label == IGNORED_LABEL for label in answers):
                problems.append(f"{conversation.name}: its first answer begins after {max_length} tokens")
        examples.append(example_of(conversation.name, ids[:max_length], labels[:max_length]))
    report_problems(file, problems, len(conversations))
    if cut:
        warnings.warn(
            f"{file}: {len(cut)} of {len(conversations)} conversations are longer than {max_length} tokens and were "
            "cut; raise --model-max-length to train on all of them",
            DataWarning,
            stacklevel=2,
        )
    return Examples(examples)


@dataclass(frozen=True)
class Collator:
    """Examples -> what the network takes: input_ids, attention_mask and labels, int64 [B, L], and their names."""

    pad_id: int

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        longest = max(len(example.ids) for example in examples)
        ids = torch.full((len(examples), longest), self.pad_id)
        labels = torch.full((len(examples), longest), IGNORED_LABEL)
        mask = torch.zeros(len(examples), longest, dtype=torch.int64)
        for row, example in enumerate(examples):
            length = len(example.ids)
            ids[row, :length] = torch.from_numpy(example.ids)
            labels[row, :length] = torch.from_numpy(example.labels)
            mask[row, :length] = 1
        names = [example.name for example in examples]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, SAMPLES: names, **_LOSS_ONLY}
