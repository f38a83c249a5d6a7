"""A token from one row of processed logits: which candidates are left, and which of them is taken.

The choice is the Gumbel-max trick: every id gets a random number that follows from the request's seed, the place in its
completion and the id itself, and nothing else; the largest sum of score and number wins.

    token = argmax over candidates i of  score_i + g_i,      g_i = -log(-log(u(seed, place, i)))

So a token depends neither on what else is in the batch nor on how it was speculated, and a draft model that draws with
the same numbers guesses right more often than with its own. (Gumbel 1954; Maddison et al. 2014.)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qwartet.engine.logits_processors import keep_min_p, keep_top_k, keep_top_p
from qwartet.engine.sampling_params import SamplingParams

NUM_CANDIDATES = 1024  # looked at before the whole vocabulary is sorted
GUMBEL_RANGE = 40.5  # the largest g less the smallest: an id this far behind the best can never win

_GOLDEN = 0x9E3779B97F4A7C15  # constants of splitmix64 (Steele et al. 2014)
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


def warp_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Temperature, top_k, top_p, min_p: the shape of the distribution that is sampled; [V] fp32 -> [V] fp32.

    This is the definition; `candidates` finds the same ids without sorting the vocabulary.
    """
    if params.temperature != 1.0:
        logits = logits / params.temperature
    if params.top_k > 0:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p < 1.0:
        logits = keep_top_p(logits, params.top_p)
    if params.min_p > 0.0:
        logits = keep_min_p(logits, params.min_p)
    return logits


def draw(logits: Tensor, params: SamplingParams, seed: int, place: int) -> int:
    """The id that a request with this seed takes at this place of its completion from logits [V] fp32."""
    token_ids, scores = candidates(logits, params)
    return int(token_ids[np.argmax(scores + gumbel(seed, place, token_ids))])


def candidates(logits: Tensor, params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ids [n] that are left by `warp_logits` and can win, with their scores.

    In numpy, on one thread: torch's own threads would spin on after each operation and take a core from the kernels.
    """
    scores = logits.cpu().numpy() / np.float32(params.temperature)
    if params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0:
        for num_looked_at in (NUM_CANDIDATES, len(scores)):
            token_ids = _largest(scores, num_looked_at)
            values = scores[token_ids].astype(np.float64)
            num_kept = _num_kept(values, scores, params)
            if num_kept < len(values):
                break
        is_tied = num_kept < len(values) and values[num_kept] == values[num_kept - 1]
        if not is_tied:
            return token_ids[:num_kept], values[:num_kept]
        scores = warp_logits(logits, params).cpu().numpy()  # top_p cuts between equals: the definition says where
    can_win = np.flatnonzero(scores > scores.max() - GUMBEL_RANGE)
    return can_win, scores[can_win].astype(np.float64)


def _largest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The ids of the `count` highest scores, in descending order."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    found = np.argpartition(scores, -count)[-count:]
    return found[np.argsort(-scores[found], kind="stable")]


def _num_kept(values: NDArray[np.float64], scores: NDArray[np.float32], params: SamplingParams) -> int:
    """How many of the highest scores, given in descending order, all three limits keep; all of them where unsure."""
    num_kept = len(values)
    if num_kept < params.top_k < len(scores):
        return num_kept
    if 0 < params.top_k <= num_kept:
        num_kept = int(np.searchsorted(-values, -values[params.top_k - 1], side="right"))
    if params.top_p < 1.0:
        massed = values[:num_kept] if 0 < params.top_k <= len(values) else scores  # what top_k cuts off has no mass
        total = np.exp(massed - values[0]).sum(dtype=np.float64)
        before = np.exp(values[:num_kept] - values[0]).cumsum()[:-1]
        num_kept = 1 + int((before < params.top_p * total).sum())
    if params.min_p > 0.0:
        num_kept = min(num_kept, int((values >= values[0] + math.log(params.min_p)).sum()))
    return num_kept


def gumbel(seed: int, place: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel numbers, a function of seed, place and id alone."""
    key = np.uint64(_mix((_mix(seed & _MASK) + place * _GOLDEN) & _MASK))
    bits = key + token_ids.astype(np.uint64) * np.uint64(_GOLDEN)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX_1)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX_2)
    bits ^= bits >> np.uint64(31)
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # neither 0 nor 1
    return -np.log(-np.log(uniform))


def sibling_seed(seed: int, index: int) -> int:
    """The seed of sibling `index` of n completions; that of the first is the request's own."""
    return seed if index == 0 else _mix((seed + index * _GOLDEN) & _MASK)


def _mix(bits: int) -> int:
    """splitmix64's last step: every bit of the input changes half of the output's."""
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _MASK
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _MASK
    return bits ^ (bits >> 31)
