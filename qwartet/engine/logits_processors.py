"""Pure functions from logits to logits, for one row [V] fp32.

Repetition penalty, top_k and top_p have the semantics of the published generate(): transformers 4.37's processors and
warpers are the specification (the golden set `logits_processing`). Presence and frequency penalty and logit_bias are
those of OpenAI's API.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


def penalise_repetition(logits: Tensor, token_ids: Iterable[int], penalty: float) -> Tensor:
    """Divides positive logits of ids seen before by the penalty and multiplies negative ones (Keskar et al. 2019).

    Ids beyond the row are passed over: a prompt may hold them, and the sampler cuts the vocabulary's padding off.
    """
    index = _index(sorted(set(token_ids)), logits)
    seen = logits[index]
    return logits.index_copy(0, index, torch.where(seen < 0, seen * penalty, seen / penalty))


def penalise_counts(logits: Tensor, counts: Mapping[int, int], presence: float, frequency: float) -> Tensor:
    """Takes `presence` off the logits of ids that were chosen before, and `frequency` for each time."""
    return add_bias(logits, [(i, -presence - frequency * count) for i, count in counts.items()])


def add_bias(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """Adds a number to the logits of some ids, each named once; ids beyond the row are passed over."""
    pairs = [(i, value) for i, value in bias if i < logits.shape[0]]
    index = _index([i for i, _ in pairs], logits)
    values = torch.tensor([value for _, value in pairs], dtype=logits.dtype, device=logits.device)
    return logits.index_add(0, index, values)


def forbid(logits: Tensor, token_ids: Iterable[int]) -> Tensor:
    """Takes these ids out of the choice; ids beyond the vocabulary are passed over."""
    return logits.index_fill(0, _index(token_ids, logits), -torch.inf)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Keeps the k highest logits and all that tie with the last of them."""
    threshold = torch.topk(logits, min(top_k, logits.shape[0])).values[-1]
    return logits.masked_fill(logits < threshold, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keeps the fewest highest logits whose probabilities exceed top_p, at least one (Holtzman et al. 2019)."""
    ascending, order = logits.sort()
    cumulative = ascending.softmax(-1).cumsum(-1)
    removed = cumulative <= 1 - top_p
    removed[-1] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(0, order, removed), -torch.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keeps the ids that are at least `min_p` times as probable as the most probable one (Nguyen et al. 2024)."""
    return logits.masked_fill(logits < logits.max() + math.log(min_p), -torch.inf)


def _index(token_ids: Iterable[int], logits: Tensor) -> Tensor:
    ids = [i for i in token_ids if i < logits.shape[0]]
    return torch.tensor(ids, dtype=torch.int64, device=logits.device)
