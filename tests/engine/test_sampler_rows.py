"""All rows of a step at once give the tokens of the slow reference, which goes row by row: whatever the settings of the
requests, whether drafts are right or wrong, and whatever goes wrong in one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwartet.engine import gumbel, sampler
from qwartet.engine.request import LogitsProcessor, Request
from qwartet.engine.sampler import Sampled, Sampler
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.layers.head import Head
from tests.reference import naive_sampling

VOCAB_SIZE, NUM_VALID = 40, 37
ids = st.integers(0, NUM_VALID - 1)


class FailureError(Exception):
    """What processors and structures of these tests raise."""


@dataclass
class Remainders:
    """A structure: each id leaves another remainder than the one before it; it ends, or fails, behind so many ids."""

    modulus: int
    ends_behind: int
    fails_behind: int
    num_ids: int = 0
    last: int = -1

    @property
    def is_finished(self) -> bool:
        return self.num_ids >= self.ends_behind

    def mask(self, num_ids: int | None = None) -> np.ndarray:
        if self.num_ids == self.fails_behind:
            raise FailureError
        return np.arange(num_ids or VOCAB_SIZE) % self.modulus != self.last

    def accept(self, token_id: int) -> None:
        if token_id % self.modulus == self.last:
            raise FailureError
        self.num_ids, self.last = self.num_ids + 1, token_id % self.modulus

    def count_valid(self, token_ids: list[int]) -> int:
        raise AssertionError("the sampler does not ask")

    def fork(self) -> Remainders:
        return replace(self)


def turning(fails_at: int) -> LogitsProcessor:
    """A processor that turns the logits by the number of ids, and fails behind so many."""

    def process(logits: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
        if len(token_ids) == fails_at:
            raise FailureError
        return logits.roll(len(token_ids)) + 0.1 * token_ids[-1]

    return process


def dead_end(logits: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
    return logits - torch.inf


@st.composite
def any_request(draw, request_id: int = 0) -> Request:
    prompt_ids = draw(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=6))
    params = SamplingParams(
        max_tokens=99,
        min_tokens=draw(st.integers(0, 8)),
        min_length=draw(st.sampled_from([0, 0, 4, 9])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 1, 2, 3, 9])),
        bad_words_ids=draw(st.lists(st.lists(ids, min_size=1, max_size=3), max_size=3)),
        suppress_tokens=draw(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=3)),
        begin_suppress_tokens=draw(st.lists(ids, max_size=3)),
        temperature=draw(st.sampled_from([0.0, 0.0, 1e-4, 0.7, 1.0, 100.0])),
        top_k=draw(st.sampled_from([0, 0, 1, 3, 20])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.5, 0.8])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.1])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3, 0.5])),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, 0.7, -0.7])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.4])),
        logit_bias=draw(
            st.dictionaries(st.sampled_from(prompt_ids) | ids, st.sampled_from([-9.0, 2.5, 100.0]), max_size=3)
        ),
        logprobs=draw(st.sampled_from([None, None, 0, 3])),
    )
    constraint = Remainders(draw(st.integers(2, 4)), draw(st.sampled_from([3, 99])), draw(st.sampled_from([2, 99, 99])))
    return Request(
        request_id,
        prompt_ids,
        params,
        seed=draw(st.integers(0, 2**63 - 1)),
        stop_token_ids=frozenset(draw(st.lists(ids, max_size=3))),
        logits_processors=draw(st.sampled_from([(), (), (), (turning(8),), (turning(-1),), (dead_end,)])),
        constraint=draw(st.sampled_from([None, None, constraint])),
        completion_ids=draw(st.lists(ids, max_size=4)),
    )


@st.composite
def any_step(draw) -> tuple[torch.Tensor, list[Request]]:
    """Requests and their rows [R, V]; drafts are the reference's own tokens up to where they are wrong."""
    requests, rows = [draw(any_request(i)) for i in range(draw(st.integers(1, 5)))], []
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    for request in requests:
        num_drafts = draw(st.integers(0, 4))
        logits = draw(st.sampled_from([0.3, 3.0])) * torch.randn(num_drafts + 1, NUM_VALID, generator=generator)
        if draw(st.booleans()):
            logits = logits.round()
        if draw(st.sampled_from([False, False, False, True])):
            logits[draw(st.integers(0, num_drafts)), draw(ids)] = torch.nan
        request.draft_ids = draw(st.lists(ids, min_size=num_drafts, max_size=num_drafts))
        for place in range(draw(st.integers(0, num_drafts))):
            told = naive_sampling.sample(logits.numpy(), request)
            if isinstance(told, str) or len(told) <= place:
                break
            request.draft_ids[place] = told[place]
        rows.append(torch.nn.functional.pad(logits, (0, VOCAB_SIZE - NUM_VALID), value=1e9))
    return torch.cat(rows), requests


class GivenHead(Head):
    """Hidden states are row numbers; the logits of each are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__(1, len(logits))
        self._logits = logits

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._logits[hidden[:, 0].long()]


def sample(logits: torch.Tensor, requests: list[Request]) -> list[Sampled]:
    items = []
    for request in requests:
        request.table.num_computed_tokens = request.num_tokens - 1
        items.append(ScheduledRequest(request, 1, len(request.draft_ids)))
    with torch.inference_mode():
        hidden = torch.arange(float(len(logits))).unsqueeze(-1)
        return Sampler(GivenHead(logits), NUM_VALID).sample(hidden, items)


def check(logits: torch.Tensor, requests: list[Request]) -> None:
    start, expected = 0, []
    for request in requests:
        end = start + len(request.draft_ids) + 1
        expected.append(naive_sampling.sample(logits[start:end, :NUM_VALID].numpy(), request))
        start = end
    found = sample(logits, requests)
    assert [type(one.error).__name__ if one.error else one.token_ids for one in found] == expected
    start = 0
    for one, request in zip(found, requests, strict=True):
        assert one.request is request
        if request.params.logprobs is not None and not one.error:
            assert [told.token_id for told in one.logprobs] == one.token_ids
            for told, row in zip(one.logprobs, logits[start:, :NUM_VALID].log_softmax(-1), strict=False):
                assert told.logprob == pytest.approx(float(row[told.token_id]), abs=1e-5)
                assert [value for _, value in told.top] == pytest.approx(
                    row.topk(request.params.logprobs).values.tolist(), abs=1e-5
                )
        start += len(request.draft_ids) + 1


@settings(max_examples=500, deadline=None)
@given(any_step())
def test_a_step_gives_the_references_tokens(step: tuple[torch.Tensor, list[Request]]) -> None:
    check(*step)


@settings(max_examples=60, deadline=None)
@given(any_step())
def test_it_gives_them_in_pieces_too(step: tuple[torch.Tensor, list[Request]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "LOGITS_ROWS", 3)
        patch.setattr(gumbel, "NUM_CANDIDATES", (4,))
        check(*step)


def test_what_is_found_for_all_requests_is_transferred_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every transfer waits for all that was queued before it; one for each row costs more than the rows."""
    generator = torch.Generator().manual_seed(5)
    limits = (
        {"temperature": 0},
        {"temperature": 0.8, "top_p": 0.8},
        {"temperature": 1.0},
        {"top_k": 5},
        {"min_p": 0.1},
    )
    kinds = [SamplingParams(repetition_penalty=1.1, **one) for one in limits]
    requests = [Request(i, [1, 2, 3], kinds[i % len(kinds)], seed=i) for i in range(20)]
    logits = torch.randn(20, VOCAB_SIZE, generator=generator)
    transfers = []

    def count(name: str) -> None:
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *args: (transfers.append(name), method(*args))[1])

    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero"):
        count(name)
    found = sample(logits, requests)
    monkeypatch.undo()
    assert transfers == ["tolist"] and len(found) == 20
