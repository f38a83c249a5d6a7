"""A file of preferences: for each prompt, an answer that was chosen over another.

    {"prompt": "...", "chosen": "...", "rejected": "..."}
    {"prompt": [{"role": "user", "content": "..."}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}        the same prompt in both

Only the answers are compared; the prompt is context. JSON lists and JSON lines are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from qwartet.errors import DataError, DataWarning
from qwartet.finetune.conversations import problems_of, read_entries, report_problems
from qwartet.finetune.examples import SAMPLES, Collator, Example, example_of
from qwartet.quantize.calibration_records import FormError, record_of
from qwartet.tokenizer.chatml import IGNORED_LABEL, Message, training_example
from qwartet.tokenizer.tokenizer import Tokenizer

REFERENCE = "reference"
"""Key of a batch: log-probabilities of its answers before training, fp32 [2 B], chosen ones first."""


@dataclass(frozen=True)
class Preference:
    """A prompt, which ends with a user's turn, and two answers to it."""

    name: str
    prompt: list[Message]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Pair:
    """Two examples with one prompt; labels are on the answers alone."""

    chosen: Example
    rejected: Example
    reference: Tensor  # [2] fp32; NaN until it is computed


def read_preferences(file: Path) -> list[Preference]:
    """All preferences of a file; DataError with the samples that are wrong."""
    found, problems = [], []
    entries = read_entries(file)
    for where, name, entry in entries:
        try:
            found.append(_preference(name, entry))
        except FormError as error:
            problems.append(f"{where}: {error}")
    report_problems(file, problems, len(entries))
    return found


def _preference(name: str, entry: Any) -> Preference:
    if not isinstance(entry, Mapping) or any(entry.get(key) is None for key in ("chosen", "rejected")):
        raise FormError('is not {"prompt": ..., "chosen": ..., "rejected": ...}')
    chosen, rejected = (_conversation(entry, answer) for answer in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise FormError("chosen and rejected do not answer the same prompt")
    if chosen == rejected:
        raise FormError("chosen and rejected are the same")
    return Preference(name, chosen[:-1], chosen[-1].content, rejected[-1].content)


def _conversation(entry: Mapping[str, Any], key: str) -> list[Message]:
    """The prompt with one of its answers."""
    prompt, answer = entry.get("prompt"), entry[key]
    if prompt is None:
        messages = record_of({"messages": answer})
    else:
        messages = record_of({"prompt": prompt, "completion": answer, "system": entry.get("system")})
    assert not isinstance(messages, str)
    if problem := next(problems_of(messages), None):
        raise FormError(f"{key}: {problem}")
    if messages[-1].role != "assistant":
        raise FormError(f"{key} does not end with a turn of the assistant")
    return messages


class Pairs(Dataset[Pair]):
    """Pairs in the order of their file."""

    def __init__(self, pairs: Sequence[tuple[Example, Example]]) -> None:
        self.pairs = list(pairs)
        self.lengths = [len(chosen.ids) + len(rejected.ids) for chosen, rejected in self.pairs]
        self.reference = torch.full((len(self.pairs), 2), float("nan"))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return Pair(*self.pairs[index], self.reference[index])


def encode_pairs(preferences: Sequence[Preference], tokenizer: Tokenizer, max_length: int, file: Path) -> Pairs:
    """Ids and labels of both answers; `file` is for messages.

    A pair of which one conversation is longer than max_length is left out, because a cut answer is another answer:
    warns how many; DataError if none is left.
    """
    pairs = []
    for preference in preferences:
        chosen, rejected = (
            _example(preference, answer, tokenizer, max_length) for answer in (preference.chosen, preference.rejected)
        )
        if chosen is not None and rejected is not None:
            pairs.append((chosen, rejected))
    num_left_out = len(preferences) - len(pairs)
    if not pairs:
        raise DataError(file, f"every pair is longer than {max_length} tokens", hint="raise --model-max-length")
    if num_left_out:
        warnings.warn(
            f"{file}: {num_left_out} of {len(preferences)} pairs are longer than {max_length} tokens and were left "
            "out; raise --model-max-length to train on all of them",
            DataWarning,
            stacklevel=2,
        )
    return Pairs(pairs)


def _example(preference: Preference, answer: str, tokenizer: Tokenizer, max_length: int) -> Example | None:
    messages = [*preference.prompt, Message("assistant", answer)]
    ids, labels = training_example(tokenizer, messages, max_length + 1, "assistant")
    if len(ids) > max_length:
        return None
    num_context = len(training_example(tokenizer, preference.prompt, max_length)[0])
    labels[:num_context] = [IGNORED_LABEL] * num_context
    return example_of(preference.name, ids, labels)


@dataclass(frozen=True)
class PairCollator:
    """Pairs -> the batch of their 2 B examples, chosen ones first, and the reference."""

    pad_id: int

    def __call__(self, pairs: Sequence[Pair]) -> Mapping[str, Any]:
        examples = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        batch = Collator(self.pad_id)(examples)
        names = [pair.chosen.name for pair in pairs]
        return {**batch, REFERENCE: torch.stack([pair.reference for pair in pairs], dim=1).flatten(), SAMPLES: names}
