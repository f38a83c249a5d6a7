"""Log-probabilities in nats, from the model's own logits, before any processing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qwartet.engine.logits_processors import largest
from qwartet.engine.request import TokenLogprobs


def token_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """For each row of logits [R, V] its token, and the `num_top` most probable ones; ids from V on get -inf."""
    total = logits.logsumexp(-1)
    ids = torch.tensor(token_ids, dtype=torch.int64, device=logits.device)
    values = logits.gather(-1, ids.clamp(max=logits.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    chosen = torch.where(ids < logits.shape[-1], values - total, -torch.inf).tolist()
    best, top = largest(logits, num_top)
    best, order = best.sort(-1, descending=True)
    top_ids, top_values = top.gather(-1, order).tolist(), (best - total.unsqueeze(-1)).tolist()
    return [
        TokenLogprobs(token_id, logprob, tuple(zip(best_ids, best_values, strict=True)))
        for token_id, logprob, best_ids, best_values in zip(token_ids, chosen, top_ids, top_values, strict=True)
    ]


def logprobs_of(logits: Tensor, token_ids: Sequence[int]) -> tuple[tuple[int, float], ...]:
    """Ids, each with its log-probability by logits [V], in the given order; an id from V on is impossible."""
    known = [token_id for token_id in token_ids if token_id < len(logits)]
    values = dict(zip(known, (logits[known] - logits.logsumexp(-1)).tolist(), strict=True))
    return tuple((token_id, values.get(token_id, -math.inf)) for token_id in token_ids)
