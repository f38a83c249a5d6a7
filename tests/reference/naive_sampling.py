"""Sampling as it is defined: row by row, id by id, with nothing of the package. The slow reference of the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Logits = NDArray[np.float32]
MASK = 2**64 - 1


def mix(bits: int) -> int:
    """splitmix64's finalizer (Steele et al. 2014)."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def uniform(seed: int, place: int, token_id: int) -> float:
    """One of 2**52 numbers between 0 and 1."""
    golden = 0x9E3779B97F4A7C15
    key = mix((mix(seed & MASK) + place * golden) & MASK)
    return ((mix((key + token_id * golden) & MASK) >> 12) + 0.5) * 2.0**-52


def gumbel(seed: int, place: int, token_ids: Sequence[int]) -> NDArray[np.float64]:
    return -np.log(-np.log(np.array([uniform(seed, place, int(token_id)) for token_id in token_ids])))


def kept(logits: Logits, params: Any) -> tuple[list[int], NDArray[np.float64]]:
    """The ids that temperature, top_k, top_p, min_p leave of a row, best first, and their scores."""
    scores = logits / np.float32(params.temperature)
    ids = sorted((i for i in range(len(scores)) if scores[i] > -np.inf), key=lambda i: (-scores[i], i))
    if 0 < params.top_k < len(ids):
        ids = [i for i in ids if scores[i] >= scores[ids[params.top_k - 1]]]
    values = scores[ids].astype(np.float64)
    if params.top_p < 1:
        mass = np.exp(values - values[0]).cumsum()
        ids = [ids[0]] + [i for i, before in zip(ids[1:], mass[:-1], strict=True) if before < params.top_p * mass[-1]]
    if params.min_p > 0:
        ids = [i for i in ids if np.float64(scores[i]) >= values[0] + np.log(params.min_p)]
    return ids, scores[ids].astype(np.float64)


def draw(logits: Logits, params: Any, seed: int, place: int) -> int:
    """The token that a row gives."""
    if params.is_greedy:
        return int(np.argmax(logits))
    ids, scores = kept(logits, params)
    return ids[int(np.argmax(scores + gumbel(seed, place, ids)))]


def forbidden(params: Any, ids: list[int], num_prompt: int, stops: Sequence[int]) -> set[int]:
    """The ids that transformers 4.37 sets to -inf behind `ids`, each processor written as it is there."""
    found = set(params.suppress_tokens)
    if len(ids) == num_prompt:
        found |= set(params.begin_suppress_tokens)
    if len(ids) < params.min_length or len(ids) - num_prompt < params.min_tokens:
        found |= set(stops)
    size = params.no_repeat_ngram_size
    if 0 < size <= len(ids) + 1:
        grams = [tuple(ids[place : place + size]) for place in range(len(ids) - size + 1)]
        found |= {gram[-1] for gram in grams if list(gram[:-1]) == ids[len(ids) + 1 - size :]}
    for words in params.bad_words_ids:
        if len(words) == 1 and words[0] not in stops:
            found.add(words[0])
        if 1 < len(words) <= len(ids) and ids[-(len(words) - 1) :] == list(words[:-1]):
            found.add(words[-1])
    return found


def process(logits: Logits, request: Any, new_ids: Sequence[int], constraint: Any = None) -> Logits:
    """What a request's settings, processors and structure make of a row behind `new_ids` of the step."""
    logits, params = logits.copy(), request.params
    completion = [*request.completion_ids, *new_ids]
    for token_id in {*request.prompt_ids, *completion}:
        if token_id < len(logits) and params.repetition_penalty != 1:
            factor = np.float32(params.repetition_penalty)
            logits[token_id] = logits[token_id] * factor if logits[token_id] < 0 else logits[token_id] / factor
    for token_id in set(completion):
        if token_id < len(logits):
            count = completion.count(token_id)
            logits[token_id] += np.float32(-params.presence_penalty - params.frequency_penalty * count)
    for token_id, bias in params.logit_bias:
        if token_id < len(logits):
            logits[token_id] += np.float32(bias)
    text = [*request.prompt_ids, *completion]
    banned = forbidden(params, text, len(request.prompt_ids), list(request.stop_token_ids))
    logits[[token_id for token_id in banned if token_id < len(logits)]] = -np.inf
    for processor in request.logits_processors:
        logits = processor(torch.from_numpy(logits), text).numpy()
    if constraint is not None:
        logits = np.where(constraint.mask(len(logits)), logits, np.float32(-np.inf))
    return logits


def sample(logits: Logits, request: Any) -> list[int] | str:
    """The tokens that rows [k + 1, V] bring a request with k drafts, or the name of the error that ends it."""
    tokens: list[int] = []
    constraint = request.constraint and request.constraint.fork()
    for row, draft in zip(logits, [*request.draft_ids, None], strict=True):
        if not np.isfinite(row.max()):
            return "NotFiniteError"
        try:
            processed = process(row, request, tokens, constraint)
            if processed.max() == -np.inf:
                return "RequestError"
            tokens.append(draw(processed, request.params, request.seed, len(request.completion_ids) + len(tokens)))
            if constraint is not None:
                constraint.accept(tokens[-1])
        except Exception as error:
            return type(error).__name__
        is_complete = constraint is not None and constraint.is_finished
        if tokens[-1] != draft or tokens[-1] in request.stop_token_ids or is_complete:
            break
    return tokens
