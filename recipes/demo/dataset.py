"""Training rows from conversations: tokenised, labelled on the answers, packed, in the order of the curriculum.

    step -> conversations -> | conversation | conversation | ... | padding |   ids, labels [B, T]

A row holds complete conversations side by side and states the length of each, so that attention can stay within one.
A batch is a pure function of (seed, step): training resumes anywhere, and a loader may build batches ahead.

Only answers carry labels. User turns are drawn at random and cannot be predicted; their loss would be
noise in the gradient, and the little that they teach is also learnt from the answers that restate it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwartet.errors import SettingError
from qwartet.tokenizer.chatml import IGNORED_LABEL, training_example
from qwartet.tokenizer.tokenizer import Tokenizer
from recipes.demo.corpus import mixture
from recipes.demo.corpus.conversation import Conversation
from recipes.demo.corpus.split import Split

ROW_LENGTH = 512
LONG_ROW_LENGTH = 2048
LONG_EVERY = 8  # from mixture.LONG_START on, one step in so many has long rows, half of them filled with long texts
FILL = 0.97  # of a batch's tokens are drawn; what does not fit is left out

Example = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Batch:
    """`ids` and `labels` are int32 [B, T], not shifted; `lengths` are each row's conversations, padding last."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    lengths: list[list[int]]


def encode(tokenizer: Tokenizer, conversation: Conversation, max_length: int) -> Example | None:
    """Ids and labels of a conversation, or None if it is longer than `max_length`.

    Labels are on the answers, their <|im_end|> and newline, but not on the given part of the last one, nor on the
    turns that are context.
    """
    ids, labels = training_example(tokenizer, conversation.messages, max_length + 1, loss_on="assistant")
    if len(ids) > max_length:
        return None
    if conversation.num_unlabelled:
        context = conversation.messages[: 1 + 2 * conversation.num_unlabelled]
        num_context = len(training_example(tokenizer, context, max_length)[0])
        labels[:num_context] = [IGNORED_LABEL] * num_context
    if conversation.given:
        closing = len(tokenizer.encode("\n")) + 1
        num_answer = len(tokenizer.encode(conversation.messages[-1].content)) + closing
        num_given = len(tokenizer.encode(conversation.given))
        start = len(ids) - num_answer
        labels[start : start + num_given] = [IGNORED_LABEL] * num_given
    return ids, labels


def pack(examples: list[Example], num_rows: int, row_length: int, pad_id: int) -> Batch:
    """Fills rows with complete examples, longest first, each into the first row with room; the rest is left out."""
    ids = np.full((num_rows, row_length), pad_id, dtype=np.int32)
    labels = np.full((num_rows, row_length), IGNORED_LABEL, dtype=np.int32)
    lengths: list[list[int]] = [[] for _ in range(num_rows)]
    used = [0] * num_rows
    for example_ids, example_labels in sorted(examples, key=lambda example: len(example[0]), reverse=True):
        size = len(example_ids)
        row = next((row for row in range(num_rows) if used[row] + size <= row_length), None)
        if row is None:
            continue
        ids[row, used[row] : used[row] + size] = example_ids
        labels[row, used[row] : used[row] + size] = example_labels
        lengths[row].append(size)
        used[row] += size
    for row in range(num_rows):
        if used[row] < row_length:
            lengths[row].append(row_length - used[row])
    return Batch(ids, labels, lengths)


class Dataset:
    """The batches of a training run; `len` is their number, and indexing builds one.

    `tokens_per_step` is the size of every batch, a multiple of 2048; raises SettingError otherwise.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        total_steps: int,
        tokens_per_step: int = 16384,
        seed: int = 0,
        split: Split = "train",
    ) -> None:
        if tokens_per_step < LONG_ROW_LENGTH or tokens_per_step % LONG_ROW_LENGTH:
            raise SettingError(f"tokens_per_step is {tokens_per_step}; use a multiple of {LONG_ROW_LENGTH}")
        self.tokenizer = tokenizer
        self.total_steps = total_steps
        self.tokens_per_step = tokens_per_step
        self.seed = seed
        self.split: Split = split

    def __len__(self) -> int:
        return self.total_steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self.total_steps:
            raise IndexError(step)
        return self.batch(step)

    def batch(self, step: int) -> Batch:
        """The batch of a step: the same for the same (seed, step), regardless of earlier calls."""
        rng = random.Random(f"batch {self.seed} {self.split} {step}")
        progress = step / self.total_steps
        is_long = progress >= mixture.LONG_START and step % LONG_EVERY == 0
        row_length = LONG_ROW_LENGTH if is_long else ROW_LENGTH
        wanted = FILL * self.tokens_per_step
        examples: list[Example] = []
        num_drawn = 0
        while num_drawn < wanted:
            if is_long and num_drawn < wanted / 2:
                conversation = mixture.draw_long(rng, self.split)
            else:
                conversation = mixture.draw(rng, self.split, progress)
            example = encode(self.tokenizer, conversation, row_length)
            if example is not None:
                examples.append(example)
                num_drawn += len(example[0])
        return pack(examples, self.tokens_per_step // row_length, row_length, self.tokenizer.eod_id)
