"""Tokens from rows of processed logits: which candidates remain, and which of them is chosen.

The choice is the Gumbel-max trick: every id gets a random number that depends only on the request's seed, the place in
its completion and the id itself; the largest sum of score and number wins.

    token = argmax over candidates i of  score_i + g_i,      g_i = -log(-log(u(seed, place, i)))

So a token depends neither on the rest of the batch nor on speculation, and a draft model that samples with the same
numbers is accepted more often than with its own. (Gumbel 1954; Maddison et al. 2014.)

`sample_row` is the definition: it sorts the whole vocabulary, in float64. `sample_rows` examines the best candidates of
all rows at once and bounds the error of its sums: a row in which the error could change the choice is left to the
definition. So the two always agree, whatever the last bits of exp and log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwartet.engine.logits_processors import largest
from qwartet.engine.sampling_params import SamplingParams

NUM_CANDIDATES = 256, 4096  # examined before the whole vocabulary is sorted
MASS_ERROR = 1e-5  # of a sum of fp32 probabilities; float64's is next to nothing
SUM_ERROR = 1e-9  # of score + g in float64

_UNSURE = -2
_GOLDEN = 0x9E3779B97F4A7C15  # constants of splitmix64 (Steele et al. 2014)
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


class Sampling(NamedTuple):
    """What decides besides the logits: settings, the request's seed and the token's place in its completion."""

    params: SamplingParams
    seed: int
    place: int


def sample_row(logits: Tensor, one: Sampling) -> int:
    """The id chosen from logits [V] fp32, not all of them -inf."""
    if one.params.is_greedy:
        return int(logits.argmax())
    token_ids, scores = candidates(logits, one.params)
    numbers = gumbel(_keys([one], logits.device)[0].cpu(), torch.from_numpy(token_ids)).numpy()
    return int(token_ids[np.argmax(scores + numbers)])


def candidates(logits: Tensor, params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ids [n] that temperature, top_k, top_p and min_p leave of logits [V] fp32, best first, with their scores.

    As in the published generate(): all ids that tie with the last of top_k are kept; of ids that tie where top_p cuts,
    the smaller ones are.
    """
    scaled = logits.cpu().numpy() / np.float32(params.temperature)
    token_ids = np.argsort(-scaled, kind="stable")
    scores = scaled[token_ids].astype(np.float64)
    num_kept = int((scores > -np.inf).sum())
    if 0 < params.top_k < num_kept:
        num_kept = int((scores >= scores[params.top_k - 1]).sum())
    if params.top_p < 1.0:
        mass = np.exp(scores[:num_kept] - scores[0]).cumsum()
        num_kept = 1 + int((mass[:-1] < params.top_p * mass[-1]).sum())
    if params.min_p > 0.0:
        num_kept = min(num_kept, int((scores >= scores[0] + math.log(params.min_p)).sum()))
    return token_ids[:num_kept], scores[:num_kept]


def sample_rows(logits: Tensor, settings: Sequence[Sampling]) -> list[int]:
    """The ids of `sample_row` for each row of logits [R, V] fp32; -1 where its largest logit is NaN or -inf.

    One transfer from the logits' device fetches all of them, except the few rows that need a second look.
    """
    token_ids = [_UNSURE] * len(settings)
    for num_candidates in NUM_CANDIDATES:
        groups: dict[Callable[[Tensor, list[Sampling], int], Tensor], list[int]] = {}
        for index, one in enumerate(settings):
            if token_ids[index] == _UNSURE:
                groups.setdefault(_way_of(one.params), []).append(index)
        found = [
            way(
                logits if len(some) == len(settings) else logits[some],
                [settings[index] for index in some],
                num_candidates,
            )
            for way, some in groups.items()
        ]
        for index, token_id in zip(chain(*groups.values()), torch.cat(found).tolist() if found else (), strict=True):
            token_ids[index] = token_id
    return [
        sample_row(logits[index], settings[index]) if token_id == _UNSURE else token_id
        for index, token_id in enumerate(token_ids)
    ]


def _way_of(params: SamplingParams) -> Callable[[Tensor, list[Sampling], int], Tensor]:
    if params.is_greedy:
        return _greedy
    return _among_best if params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0 else _among_all


def _greedy(logits: Tensor, settings: list[Sampling], num_candidates: int) -> Tensor:
    best = logits.max(-1)
    return torch.where(best.values > -torch.inf, best.indices, -1)


def _among_all(logits: Tensor, settings: list[Sampling], num_candidates: int) -> Tensor:
    """The largest sum is among the best scores and the best numbers, unless the last of both together exceed it."""
    keys, vocab_size = _keys(settings, logits.device), logits.shape[-1]
    every_id = torch.arange(vocab_size, device=logits.device)
    at_once = 1 if logits.is_cpu else 16  # rows whose numbers stay in a core's cache, or take little memory
    groups = [keys[start : start + at_once] for start in range(0, len(keys), at_once)]
    lucky = torch.cat([largest(_random_bits(some, every_id), num_candidates)[1] for some in groups])
    best, ids = largest(logits, num_candidates)
    ids = torch.cat([ids, lucky], 1)
    temperature = _column([one.params.temperature for one in settings], logits).float()
    scores, numbers = (logits.gather(1, ids) / temperature).double(), gumbel(keys, ids)
    others = scores[:, : best.shape[-1]].amin(-1) + numbers[:, best.shape[-1] :].amin(-1)
    return _winner(scores + numbers, ids, others if num_candidates < vocab_size else -torch.inf)


def _among_best(logits: Tensor, settings: list[Sampling], num_candidates: int) -> Tensor:
    """As `candidates`, over the largest logits; unsure where the other logits, or the error of sums, could matter."""
    vocab_size, all_params = logits.shape[-1], [one.params for one in settings]
    top_ks = [params.top_k if params.top_k < vocab_size else 0 for params in all_params]
    most = min(max(2 * top_k + 32 if top_k else num_candidates for top_k in top_ks), num_candidates, vocab_size)
    temperature = _column([params.temperature for params in all_params], logits).float()
    top_k = _column(top_ks, logits)
    top_p = _column([params.top_p if params.top_p < 1.0 else torch.inf for params in all_params], logits)
    min_p = _column([math.log(params.min_p) if params.min_p else -torch.inf for params in all_params], logits)

    scaled, ids = largest(logits, most)
    ids, order = ids.sort(-1)
    scaled, order = (scaled.gather(1, order) / temperature).sort(dim=-1, descending=True, stable=True)
    ids, scores = ids.gather(1, order), scaled.double()
    best, last = scores[:, :1], scores[:, -1:]

    kth = scores.gather(1, (top_k.long() - 1).clamp(0, most - 1))
    kept = (scores > -torch.inf) & ((scores >= kth) | (top_k == 0))
    weights = torch.where(kept, (scores - best).exp(), 0.0)
    total = weights.sum(-1, keepdim=True)
    if most < vocab_size and not all(top_ks):
        everything = (logits / temperature).sub_(scaled[:, :1]).exp_().sum(-1, keepdim=True)
        total = torch.where(top_k == 0, everything.double(), total)
    room = top_p * total - (weights.cumsum(-1) - weights)  # mass still missing for top_p at each candidate
    unsure = (room[:, 1:].abs() <= MASS_ERROR * total).any(-1)
    kept &= (room > 0) & (scores >= best + min_p)
    kept[:, 0] = True
    if most < vocab_size:
        unsure |= (kept & (scores == last)).any(-1) | (top_k > most)[:, 0]
    numbers = gumbel(_keys(settings, logits.device), ids)
    token_ids = _winner(torch.where(kept, scores + numbers, -torch.inf), ids)
    return torch.where(unsure & (token_ids >= 0), _UNSURE, token_ids)


def _winner(sums: Tensor, ids: Tensor, others: Tensor | float = -torch.inf) -> Tensor:
    """The id [R] of the largest sum in each row; unsure where another sum may be as large within the error."""
    best, place = sums.max(-1)
    winner = ids.gather(1, place.unsqueeze(-1))
    second = torch.where(ids == winner, -torch.inf, sums).amax(-1).clamp(min=others)
    is_near = best - second <= SUM_ERROR * (1 + best.abs())
    return torch.where(best.isfinite(), torch.where(is_near, _UNSURE, winner[:, 0]), -1)


def gumbel(keys: Tensor, token_ids: Tensor) -> Tensor:
    """Standard Gumbel numbers fp64 of ids [..., n], functions of the id and a key, which encodes seed and place."""
    uniform = _random_bits(keys, token_ids).double().add_(0.5).mul_(2.0**-52)  # neither 0 nor 1
    return uniform.log_().neg_().log_().neg_()


def _random_bits(keys: Tensor, token_ids: Tensor) -> Tensor:
    """52 bits each. The shifts are those of unsigned numbers, which torch lacks."""
    bits = keys + token_ids * _signed(_GOLDEN)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        bits ^= (bits >> shift).bitwise_and_(2 ** (64 - shift) - 1)
        bits *= _signed(factor)
    bits ^= (bits >> 31).bitwise_and_(2**33 - 1)
    return bits.bitwise_right_shift_(12).bitwise_and_(2**52 - 1)


def _keys(settings: Sequence[Sampling], device: torch.device) -> Tensor:
    """[R, 1]"""
    keys = [_mix((_mix(one.seed & _MASK) + one.place * _GOLDEN) & _MASK) for one in settings]
    return torch.tensor([[_signed(key)] for key in keys], dtype=torch.int64, device=device)


def _signed(bits: int) -> int:
    """64 bits as torch's int64."""
    return bits - 2**64 if bits >= 2**63 else bits


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(-1)


def child_seed(seed: int, index: int) -> int:
    """The seed of completion `index` of a prompt; that of the first is the request's own."""
    return seed if index == 0 else _mix((seed + index * _GOLDEN) & _MASK)


def _mix(bits: int) -> int:
    """splitmix64's last step: every bit of the input changes half of the output's."""
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _MASK
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _MASK
    return bits ^ (bits >> 31)
