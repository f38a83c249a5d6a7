"""The training examples of a step: conversations tokenised and labelled, in the order of the curriculum.

    step -> conversations -> ids, labels of each        about `tokens_per_step` tokens

A step's examples are a pure function of (seed, step): training resumes anywhere.

    text    questions and answers one below the other, without markers of turns; everything is learned (pretraining)
    chat    conversations in ChatML; only answers are learned. User turns are drawn at random and cannot be predicted;
            their loss would be noise in the gradient, and the little that they teach is also learnt from the answers
            that restate it
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import torch

from qwartet.finetune.examples import Example, example_of
from qwartet.tokenizer.chatml import IGNORED_LABEL, training_example
from qwartet.tokenizer.tokenizer import Tokenizer
from recipes.demo.corpus import mixture
from recipes.demo.corpus.conversation import Conversation
from recipes.demo.corpus.split import Split

Form = Literal["text", "chat"]
MAX_LENGTH, MAX_LONG_LENGTH = 512, 2048  # tokens of an example
LONG_EVERY = 8  # from mixture.LONG_START on, one step in so many has long texts, which are half of its tokens


def encode(tokenizer: Tokenizer, conversation: Conversation, max_length: int) -> Example | None:
    """A conversation in ChatML, or None if it is longer than `max_length`.

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
    return example_of(conversation.kind, ids, labels)


def encode_text(tokenizer: Tokenizer, conversation: Conversation, max_length: int) -> Example | None:
    """The same turns as a plain text that ends with <|endoftext|>, all of it learned."""
    text = "\n".join(message.content for message in conversation.messages if message.role != "system")
    ids = [*tokenizer.encode(text), tokenizer.eod_id]
    return None if len(ids) > max_length else example_of(conversation.kind, ids, ids)


@dataclass(frozen=True)
class Dataset(torch.utils.data.Dataset[list[Example]]):
    """The steps of a stage, which goes through the curriculum from `begin` to `end` (0 to 1); `len` is their number."""

    tokenizer: Tokenizer
    steps: int
    form: Form = "chat"
    begin: float = 0.0
    end: float = 1.0
    tokens_per_step: int = 4096
    seed: int = 0
    split: Split = "train"

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[Example]:
        """The examples of a step: the same for the same (seed, step), regardless of earlier calls."""
        if not 0 <= step < self.steps:
            raise IndexError(step)
        rng = random.Random(f"batch {self.form} {self.seed} {self.split} {step}")
        progress = self.begin + (self.end - self.begin) * step / self.steps
        is_long = self.form == "chat" and progress >= mixture.LONG_START and step % LONG_EVERY == 0
        max_length = MAX_LONG_LENGTH if is_long else MAX_LENGTH
        examples: list[Example] = []
        num_drawn = 0
        while num_drawn < self.tokens_per_step:
            is_text_of_pages = is_long and num_drawn < self.tokens_per_step / 2
            example = self._example(rng, progress, max_length, is_text_of_pages)
            if example is not None:
                examples.append(example)
                num_drawn += len(example.ids)
        return examples

    def _example(self, rng: random.Random, progress: float, max_length: int, is_long: bool) -> Example | None:
        if self.form == "text":
            return encode_text(self.tokenizer, mixture.draw_text(rng, self.split, progress), max_length)
        if is_long:
            return encode(self.tokenizer, mixture.draw_long(rng, self.split), max_length)
        return encode(self.tokenizer, mixture.draw(rng, self.split, progress), max_length)
