"""Changes of logits, for all rows [R, V] fp32 of a step at once or for one row [V].

Repetition penalty has the semantics of the published generate(): transformers 4.37's processors are the specification
(the golden set `logits_processing`). Presence and frequency penalty and logit_bias are those of OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_COLUMN = 16  # ids that have one maximum together


class LogitsChange(NamedTuple):
    """What becomes of some logits of a row: x -> x / factor + added, where negative x * factor + added."""

    row: int
    token_ids: NDArray[np.int64]  # each once; ids beyond the row, which a prompt may hold, are ignored
    added: NDArray[np.float64] | float
    factor: float = 1.0


def change_logits(logits: Tensor, changes: Sequence[LogitsChange]) -> None:
    """Applies all changes in place, in logits [R, V] fp32; no logit may occur twice."""
    if not changes:
        return
    sizes = [len(change.token_ids) for change in changes]
    ids = np.concatenate([change.token_ids for change in changes])
    is_inside = ids < logits.shape[-1]
    numbers = np.empty((2, len(ids)), dtype=np.float32)
    numbers[0] = np.repeat([change.factor for change in changes], sizes)
    numbers[1] = np.concatenate([np.broadcast_to(change.added, len(change.token_ids)) for change in changes])
    places = np.stack([np.repeat([change.row for change in changes], sizes), ids])[:, is_inside]
    at = tuple(torch.from_numpy(places).to(logits.device))
    factor, added = torch.from_numpy(numbers[:, is_inside]).to(logits.device)
    before = logits[at]
    logits[at] = torch.where(before < 0, before * factor, before / factor) + added


def penalise_repetition(logits: Tensor, token_ids: Iterable[int], penalty: float) -> Tensor:
    """Divides positive logits [V] of ids seen before by the penalty, multiplies negative ones (Keskar et al. 2019)."""
    return _changed(logits, token_ids, 0.0, penalty)


def forbid(logits: Tensor, token_ids: Iterable[int]) -> Tensor:
    """Excludes these ids from the choice: logits [V]."""
    return _changed(logits, token_ids, -torch.inf)


def _changed(logits: Tensor, token_ids: Iterable[int], added: float, factor: float = 1.0) -> Tensor:
    changed = logits.clone()
    ids = np.array(sorted(set(token_ids)), dtype=np.int64)
    change_logits(changed.unsqueeze(0), [LogitsChange(0, ids, added, factor)])
    return changed


def largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of x [R, V], unordered, and their indices; any of equals.

    As torch.topk, but several times as fast on a CPU: the largest are in the columns with the largest maxima.
    """
    width = x.shape[-1] // _COLUMN
    if width <= count:
        top = x.topk(min(count, x.shape[-1]), sorted=False)
        return top.values, top.indices
    columns = x[:, : width * _COLUMN].view(-1, _COLUMN, width).amax(1).topk(count, sorted=False).indices
    steps = torch.arange(0, width * _COLUMN, width, device=x.device)
    rest = torch.arange(width * _COLUMN, x.shape[-1], device=x.device).expand(len(x), -1)
    places = torch.cat([(columns.unsqueeze(1) + steps.unsqueeze(-1)).flatten(1), rest], 1)
    top = x.gather(1, places).topk(count, sorted=False)
    return top.values, places.gather(1, top.indices)
