"""One token per request from its row of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.engine.logits_processors import forbid, keep_top_k, keep_top_p, penalise_repetition
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams


def process_logits(logits: Tensor, request: Request) -> Tensor:
    """What changes the scores whether or not the choice is greedy: [V] fp32 -> [V] fp32."""
    params = request.params
    seen = request.prompt_ids + request.completion_ids
    if params.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, seen, params.repetition_penalty)
    if len(request.completion_ids) < params.min_tokens:
        logits = forbid(logits, request.stop_token_ids)
    for processor in request.logits_processors:
        logits = processor(logits, seen)
    return logits


def warp_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Temperature, top_k, top_p: the shape of the distribution that is sampled; [V] fp32 -> [V] fp32."""
    if params.temperature != 1.0:
        logits = logits / params.temperature
    if params.top_k > 0:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p < 1.0:
        logits = keep_top_p(logits, params.top_p)
    return logits


def takes_largest_logit(request: Request) -> bool:
    """Whether the request's next token is the argmax of the logits as they are: greedy, and nothing changes them."""
    params = request.params
    is_changed = params.repetition_penalty != 1.0 or len(request.completion_ids) < params.min_tokens
    return params.is_greedy and not is_changed and not request.logits_processors


class Sampler:
    """Keeps one random generator per request, so that its text does not depend on what else is in the batch."""

    def __init__(self, num_valid_tokens: int | None = None) -> None:
        """Ids from `num_valid_tokens` on (padding rows of the vocabulary) are never chosen; None allows all."""
        self.num_valid_tokens = num_valid_tokens
        self._generators: dict[int, torch.Generator] = {}

    def sample(self, logits: Tensor, requests: list[Request]) -> list[int]:
        """The next id of each request from its row of logits [R, V]."""
        rows = logits.float()
        if self.num_valid_tokens is not None:
            rows = rows[:, : self.num_valid_tokens]
        return [self._choose(row, request) for row, request in zip(rows, requests, strict=True)]

    def forget(self, request: Request) -> None:
        """Drops the generator of a request that ended."""
        self._generators.pop(request.request_id, None)

    def _choose(self, logits: Tensor, request: Request) -> int:
        logits = process_logits(logits, request)
        if request.params.is_greedy:
            return int(logits.argmax())
        probabilities = warp_logits(logits, request.params).softmax(-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator(request, logits.device)))

    def _generator(self, request: Request, device: torch.device) -> torch.Generator:
        if request.request_id not in self._generators:
            generator = torch.Generator(device)
            if request.params.seed is None:
                generator.seed()
            else:
                generator.manual_seed(request.params.seed)
            self._generators[request.request_id] = generator
        return self._generators[request.request_id]
