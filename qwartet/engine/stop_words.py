"""The published stop words: id lists after which the next token is forced to be EOS."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from qwartet.errors import SettingError

FORCED_EOS_LOGIT = 32768.0  # the value that the original gives to EOS


class StopWords:
    """Forces EOS in every row whose ids end with one of the stop words, prompt included, as published."""

    def __init__(self, stop_words_ids: list[list[int]], eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self.stop_words_ids = checked_stop_words(stop_words_ids, eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] with EOS far above all others where input_ids [B, L] end with a stop word."""
        forced = [self.is_stopped(row) for row in input_ids.tolist()]
        if any(forced):
            scores = scores.clone()
            scores[torch.tensor(forced, device=scores.device), self.eos_token_id] = FORCED_EOS_LOGIT
        return scores

    def is_stopped(self, token_ids: list[int]) -> bool:
        """Whether ids end with a stop word."""
        return any(token_ids[-len(words) :] == words for words in self.stop_words_ids)


def checked_stop_words(stop_words_ids: Any, eos_token_id: int | None) -> list[list[int]]:
    """Stop words without [eos]; SettingError unless they are a non-empty list of lists of ids."""
    is_valid = isinstance(stop_words_ids, list) and len(stop_words_ids) > 0
    is_valid = is_valid and all(isinstance(words, list) for words in stop_words_ids)
    if not is_valid or not all(_is_id(token_id) for words in stop_words_ids for token_id in words):
        raise SettingError(f"stop_words_ids is {stop_words_ids!r}; it must be a non-empty list of lists of token ids")
    if [] in stop_words_ids:  # would end every row at once
        raise SettingError("stop_words_ids contains an empty stop word; remove it")
    return [list(map(int, words)) for words in stop_words_ids if words != [eos_token_id]]


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0
