"""Pure functions from logits to logits, for one row [V] fp32, with the semantics of the published generate().

transformers 4.37's processors and warpers are the specification (the golden set `logits_processing`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def penalise_repetition(logits: Tensor, token_ids: list[int], penalty: float) -> Tensor:
    """Divides positive logits of ids seen before by the penalty and multiplies negative ones (Keskar et al. 2019).

    Ids beyond the row are passed over: a prompt may hold them, and the sampler cuts the vocabulary's padding off.
    """
    seen_ids = sorted(i for i in set(token_ids) if i < logits.shape[0])
    index = torch.tensor(seen_ids, dtype=torch.int64, device=logits.device)
    seen = logits[index]
    return logits.index_copy(0, index, torch.where(seen < 0, seen * penalty, seen / penalty))


def forbid(logits: Tensor, token_ids: frozenset[int]) -> Tensor:
    """Takes these ids out of the choice; ids beyond the vocabulary are passed over."""
    index = torch.tensor([i for i in token_ids if i < logits.shape[0]], dtype=torch.int64, device=logits.device)
    return logits.index_fill(0, index, -torch.inf)


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
