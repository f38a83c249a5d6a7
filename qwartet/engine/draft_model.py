"""A small model of the same vocabulary drafts for a large one.

It has a KV cache of its own with as many blocks, addressed by the same block tables, so a request's tokens have the
same slots in both. Tokens that it has not seen (the prompt, tokens that it did not draft) are computed when drafts are
needed, at most a chunk per step. Drafts are sampled with the request's own random numbers (gumbel.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qwartet.engine.batch import Span, build_forward_batch
from qwartet.engine.gumbel import Sampling, sample_rows
from qwartet.engine.one_thread import one_thread
from qwartet.engine.request import Request
from qwartet.engine.runner import ModelRunner
from qwartet.engine.scheduler import ScheduledRequest


@dataclass(frozen=True)
class _Progress:
    """How far the draft model has computed a request: `num_tokens` of it, and all but the last of its drafts."""

    num_preemptions: int
    num_tokens: int
    drafts: tuple[int, ...] = ()

    def num_computed(self, request: Request) -> int:
        """Tokens whose keys and values are in its cache and still valid."""
        if self.num_preemptions != request.num_preemptions:
            return 0  # it has other blocks now
        taken = request.token_ids(self.num_tokens, self.num_tokens + len(self.drafts) - 1)
        num_accepted = 0
        while num_accepted < len(taken) and taken[num_accepted] == self.drafts[num_accepted]:
            num_accepted += 1
        return self.num_tokens + num_accepted


class DraftModel:
    """A Drafter that runs a model."""

    def __init__(self, runner: ModelRunner, num_valid_tokens: int, max_num_batched_tokens: int) -> None:
        """`runner` has a cache of as many blocks as the large model's."""
        self._runner = runner
        self._num_valid_tokens = num_valid_tokens
        self._max_num_batched_tokens = max_num_batched_tokens
        self._progress: dict[int, _Progress] = {}

    def num_possible(self, request: Request, most: int) -> int:
        config = self._runner.model.config
        room = config.position.max_length - request.first_position - request.num_tokens
        is_known = request.request_id in self._progress or max(request.prompt_ids) < config.vocab_size
        return min(most, max(room, 0)) if is_known else 0

    @torch.inference_mode()
    def propose(self, items: Sequence[ScheduledRequest]) -> None:
        requests = self._catch_up([item.request for item in items])
        most = {item.request.request_id: item.num_draft_tokens for item in items}
        spans = [self._missing(request) for request in requests]
        while spans:
            hidden = self._run(spans)
            for span, token_id in zip(spans, self._next_ids(hidden, [span.request for span in spans]), strict=True):
                span.request.draft_ids.append(token_id)
            spans = [
                Span(span.request, span.end, span.end + 1, (range(span.end, span.end + 1),))
                for span in spans
                if len(span.request.draft_ids) < most[span.request.request_id]
            ]
        for request in requests:
            progress = _Progress(request.num_preemptions, request.num_tokens, tuple(request.draft_ids))
            self._progress[request.request_id] = progress

    def release(self, request: Request) -> None:
        self._progress.pop(request.request_id, None)

    def _missing(self, request: Request) -> Span:
        progress = self._progress.get(request.request_id)
        start = 0 if progress is None else min(progress.num_computed(request), request.num_tokens - 1)
        return Span(request, start, request.num_tokens, (range(request.num_tokens - 1, request.num_tokens),))

    def _catch_up(self, requests: list[Request]) -> list[Request]:
        """The requests that one chunk brings up to date; one that needs more is computed in part."""
        ready, budget = [], self._max_num_batched_tokens
        for request in requests:
            span = self._missing(request)
            if span.end - span.start <= budget:
                budget -= span.end - span.start
                ready.append(request)
            elif budget == self._max_num_batched_tokens:
                end = span.start + budget
                self._run([Span(request, span.start, end, ())])
                self._progress[request.request_id] = _Progress(request.num_preemptions, end)
                return []
        return ready

    def _run(self, spans: list[Span]) -> Tensor:
        model, cache = self._runner.model, self._runner.cache
        batch = build_forward_batch(spans, cache.block_size, model.config.position, model.device)
        return self._runner.run(replace(batch, adapter_index=None))  # adapters are the large model's

    def _next_ids(self, hidden: Tensor, requests: list[Request]) -> list[int]:
        head = self._runner.model.lm_head
        if all(request.params.is_greedy for request in requests):
            return [max(token_id, 0) for token_id in head.argmax(hidden, self._num_valid_tokens)]
        logits = head(hidden)[:, : self._num_valid_tokens].float().nan_to_num()
        settings = [Sampling(one.params, one.seed, len(one.completion_ids) + len(one.draft_ids)) for one in requests]
        with one_thread():
            return sample_rows(logits, settings)
