"""What prompt lookup brings by its own reckoning, on texts that are known: copies with edits, and ordinary prose."""

from __future__ import annotations

import random

import pytest

from qwartet import DEMO
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.engine.speculate import PromptLookup, Speculation, StepCost
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from tests.golden_data import REPOSITORY

TOKEN_COST = 0.08  # of a step; about what a 1.8B model takes on two cores


class KnownCost(StepCost):
    def of_a_token(self, num_tokens: int) -> float:
        return TOKEN_COST


def speed_up(prompt: list[int], answer: list[int]) -> float:
    """Tokens of the answer for the time of one step, where a step takes 1 and each draft TOKEN_COST more."""
    speculation = Speculation(PromptLookup(), KnownCost())
    request = Request(0, prompt, SamplingParams(max_tokens=len(answer)), completion_ids=answer[:1])
    time = 0.0
    while request.num_tokens < len(prompt) + len(answer):
        item = ScheduledRequest(request, 1, speculation.num_wanted(request, num_running=1))
        speculation.propose([item])
        time += 1 + TOKEN_COST * len(request.draft_ids)
        coming = answer[len(request.completion_ids) :]
        num_accepted = 0
        while (
            num_accepted < min(len(request.draft_ids), len(coming) - 1)
            and request.draft_ids[num_accepted] == coming[num_accepted]
        ):
            num_accepted += 1
        speculation.judge(request, num_accepted + 1)
        request.draft_ids = []
        request.completion_ids = answer[: len(request.completion_ids) + num_accepted + 1]
    return (len(answer) - 1) / time


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_with_every_twentieth_id_changed_comes_at_least_twice_as_fast(seed: int) -> None:
    rng = random.Random(seed)
    answer = [rng.randrange(1000) for _ in range(256)]
    prompt = [token_id if rng.random() < 0.95 else rng.randrange(1000, 2000) for token_id in answer]
    assert speed_up([*prompt, 5000], answer) > 2


def test_a_plain_copy_is_near_the_limit_of_the_longest_draft() -> None:
    ids = list(range(300))
    assert speed_up([*ids, 999], ids) > 0.9 * 16 / (1 + 15 * TOKEN_COST)


PAGES = [*sorted(REPOSITORY.glob("docs/*.md")), REPOSITORY / "README.md", REPOSITORY / "README.zh.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_ordinary_text_costs_no_more_than_three_parts_in_a_hundred(page) -> None:
    ids = TiktokenTokenizer.load(DEMO).encode(page.read_text(encoding="utf-8"))[:1200]
    assert speed_up(ids[:300], ids[300:]) > 0.97


def test_text_that_begins_like_what_stood_before_and_goes_on_otherwise_costs_little() -> None:
    rng = random.Random(0)
    answer = [rng.randrange(1000) for _ in range(400)]
    decoys = [[*answer[at : at + 3], *(rng.randrange(1000, 2000) for _ in range(4))] for at in range(0, 397, 5)]
    assert speed_up([token_id for decoy in decoys for token_id in decoy], answer) > 0.97
