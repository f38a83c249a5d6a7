"""Logits processors as transformers calls them, over ids [B, L] and scores [B, V], and the one that Qwen published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qwartet.engine.request import LogitsProcessor as RowProcessor
from qwartet.engine.stop_words import StopWords
from qwartet.errors import SettingError

BatchProcessor = Callable[[Tensor, Tensor], Tensor]


class LogitsProcessor:
    """Base class for custom processors; any callable of ids and scores works too."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] from the ids so far [B, L] and scores [B, V]."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(input_ids, scores)")


class LogitsProcessorList(list[Any]):
    """Processors that are applied one after another."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] after all of them."""
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StopWordsLogitsProcessor(StopWords, LogitsProcessor):
    """The published processor of this name."""


def checked_processors(processors: Any) -> list[BatchProcessor]:
    """The argument logits_processor as a list; SettingError unless it is None or a list of callables."""
    if processors is None:
        return []
    if not isinstance(processors, Sequence) or not all(map(callable, processors)):
        raise SettingError(f"logits_processor is {processors!r:.60}; pass a list of callables (input_ids, scores)")
    return list(processors)


def row_processor(processors: Sequence[BatchProcessor]) -> RowProcessor:
    """The same for one row: logits [V] and its ids."""

    def process(logits: Tensor, token_ids: list[int]) -> Tensor:
        input_ids = torch.tensor([token_ids], dtype=torch.int64, device=logits.device)
        scores = logits.clone().unsqueeze(0)  # they may be changed in place
        for processor in processors:
            scores = processor(input_ids, scores)
            if not isinstance(scores, Tensor) or scores.shape != (1, len(logits)):
                name = getattr(processor, "__name__", type(processor).__name__)
                raise SettingError(f"the logits processor {name} must return scores of shape {[1, len(logits)]}")
        return scores[0]

    return process
