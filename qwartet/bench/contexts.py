"""Conversations -> batches of token ids, and which of their positions count when two networks are compared.

    {"messages": [{"role": "system", "content": "..."}, {"role": "user", "content": "..."}, ...]}      one a line

A position is a context: the ids up to it. Conversations begin alike, so only the first occurrence of a context counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from qwartet.errors import CheckpointError, RequestError
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.kv_cache import BLOCK_SIZE
from qwartet.layers.rotary import PositionConfig
from qwartet.tokenizer.chatml import Message, training_example
from qwartet.tokenizer.tokenizer import Tokenizer

BATCH_TOKENS = 1024  # of whole conversations; a longer one is a batch of its own


def read_examples(file: Path, tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    """The conversations of a file as ids in ChatML, each cut at `max_length`; CheckpointError for a broken file."""
    return [training_example(tokenizer, messages, max_length)[0] for messages in read_conversations(file)]


def read_conversations(file: Path) -> list[list[Message]]:
    """The conversations of a file of JSON lines; CheckpointError if it does not have the form above."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CheckpointError(file, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(file, f"is not UTF-8 text ({error})") from None
    return [_conversation(line, f"line {number}", file) for number, line in enumerate(lines, start=1) if line.strip()]


def _conversation(line: str, where: str, file: Path) -> list[Message]:
    try:
        messages = [Message(entry["role"], entry["content"]) for entry in json.loads(line)["messages"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise CheckpointError(file, f"{where}: {error}") from None
        shape = '{"messages": [{"role": ..., "content": ...}, ...]}'
        raise CheckpointError(file, f"{where} is not a conversation; each line must be {shape}") from None
    if not messages:
        raise CheckpointError(file, f"{where} is a conversation without messages")
    return messages


@dataclass(frozen=True)
class Contexts:
    """Complete examples side by side, and which of their T positions are new contexts."""

    examples: list[list[int]]
    is_new: Tensor  # bool [T]


class SeenContexts:
    """The contexts seen so far, as a tree: (context, next id) -> context."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._children)

    def add(self, ids: Sequence[int]) -> list[bool]:
        """For each position of an example: whether its context is new. Adds all of them to the tree."""
        is_new, context = [], 0
        for token_id in ids:
            known = len(self._children)
            context = self._children.setdefault((context, token_id), known + 1)
            is_new.append(len(self._children) > known)
        return is_new


def batches(examples: Sequence[Sequence[int]], num_contexts: int) -> Iterator[Contexts]:
    """The examples in order, about BATCH_TOKENS at a time, until `num_contexts` new contexts are reached."""
    seen = SeenContexts()
    rows: list[list[int]] = []
    is_new: list[bool] = []
    for example in examples:
        if rows and len(is_new) + len(example) > BATCH_TOKENS:
            yield Contexts(rows, torch.tensor(is_new))
            rows, is_new = [], []
        if len(seen) >= num_contexts:
            break
        is_new += seen.add(example)
        rows.append(list(example))
    if rows:
        yield Contexts(rows, torch.tensor(is_new))


def cached_batch(examples: Sequence[Sequence[int]], config: PositionConfig) -> ForwardBatch:
    """All tokens of some examples as one batch for an empty KV cache; logits of all positions."""
    batch = dense_batch(examples, config)
    width = blocks_of_longest(examples)
    table = torch.arange(len(examples) * width).view(len(examples), width)
    slots = [row * width * BLOCK_SIZE + torch.arange(len(example)) for row, example in enumerate(examples)]
    return replace(batch, block_table=table.int(), slot_mapping=torch.cat(slots).int())


def blocks_of_longest(examples: Sequence[Sequence[int]]) -> int:
    """Blocks that `cached_batch` gives to each example."""
    return -(-max(map(len, examples)) // BLOCK_SIZE)
