"""Log-likelihoods of continuations: equal to those of the whole text, in as few requests as that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet import LLM
from qwartet.engine.blocking_reader import BlockingReader
from qwartet.engine.engine_thread import EngineThread
from qwartet.engine.likelihood import likelihood_requests
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import RequestError
from qwartet.tokenizer.chatml import Message

CONTEXT = "The following are questions about sums.\n\n" + "".join(
    f"Question: {n} + {n}?\nAnswer: {2 * n}\n\n" for n in range(9)
)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(device="cpu") as model:
        yield model


def of_the_whole_text(llm: LLM, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The same from the prompt log-probabilities of one request that computes everything."""
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
    [done] = llm.generate(context + continuation, params)
    told = [one for one in done.prompt_logprobs[len(context) :] if one is not None]
    return sum(one.logprob for one in told), all(one.top[0][0] == one.token_id for one in told)


def test_a_likelihood_is_that_of_the_whole_text(llm: LLM) -> None:
    pairs = [(CONTEXT + "Question: 4 + 5?\nAnswer:", text) for text in (" 9", " 10", " nine, I think")]
    pairs += [("", "Hello there"), ("Hello ", "there"), ("你好", "！很高兴为你提供帮助。")]
    for (context, continuation), found in zip(pairs, llm.loglikelihood(pairs), strict=True):
        ids = llm.likelihood_ids(context, continuation)
        logprob, is_greedy = of_the_whole_text(llm, *ids)
        assert found.logprob == pytest.approx(logprob, abs=1e-5), (context[-20:], continuation)
        assert (found.is_greedy, found.num_tokens) == (is_greedy, len(ids[1]))


def test_what_greedy_decoding_writes_is_greedy(llm: LLM) -> None:
    prompt = llm.prompt_ids([Message("user", "你好")])
    [done] = llm.generate(prompt, SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True))
    other = [*done.token_ids[:-1], done.token_ids[-1] + 1]
    [right, wrong] = llm.loglikelihood([(prompt, done.token_ids), (prompt, other)])
    assert (right.is_greedy, wrong.is_greedy) == (True, False)
    assert right.logprob > wrong.logprob


def test_a_batch_and_the_cache_change_nothing(llm: LLM) -> None:
    pairs = [(CONTEXT + f"Question: {n} + 1?\nAnswer:", f" {n + 1}") for n in range(20)]
    assert llm.loglikelihood(pairs) == [llm.loglikelihood([pair])[0] for pair in pairs]


def test_choices_of_one_token_are_one_request_and_others_share_what_they_can() -> None:
    context = (1, 2, 3)
    assert len(likelihood_requests([(context, (letter,)) for letter in (10, 11, 12, 13)])) == 1
    several = likelihood_requests([(context, (7, 10)), (context, (7, 11)), (context, (8, 10)), ((1, 2), (3, 7, 10))])
    assert [sorted(request.last_ids) for request in several] == [[10, 11], [10], [10]]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(1,), (1, 2), (1, 2, 3), [1, 2]]), st.lists(st.integers(2, 4), min_size=1, max_size=3)
        ),
        max_size=12,
    )
)
def test_pairs_share_a_request_exactly_where_they_differ_in_the_last_token(pairs) -> None:
    expected: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[int, list[int]]] = {}
    for index, (context, continuation) in enumerate(pairs):
        last_ids = expected.setdefault((tuple(context), tuple(continuation[:-1])), {})
        last_ids.setdefault(continuation[-1], []).append(index)
    found = likelihood_requests(pairs)
    assert [(one.prompt_ids, one.num_context_tokens, one.last_ids) for one in found] == [
        ((*context, *inner), len(context), last_ids) for (context, inner), last_ids in expected.items()
    ]


def test_what_contexts_have_in_common_is_computed_once(llm: LLM) -> None:
    llm.loglikelihood([(CONTEXT, " the end")])
    [request] = likelihood_requests([llm.likelihood_ids(CONTEXT, " another end")])
    with BlockingReader(EngineThread.of(llm.engine)) as reader:
        reader.submit([request.prompt])
        list(reader)
        [[added]] = reader.requests
    block = llm.engine.block_manager.block_size
    assert added.num_cached_tokens >= (added.num_prompt_tokens // block - 1) * block > 0


def test_the_same_pair_twice_and_no_pair(llm: LLM) -> None:
    pair = ("2 + 2 =", " 4")
    assert len(set(llm.loglikelihood([pair, pair]))) == 1
    assert llm.loglikelihood([]) == []


def test_probabilities_of_all_continuations_sum_to_one(llm: LLM) -> None:
    num_ids = llm.tokenizer.num_tokens
    context = llm.tokenizer.encode("2 + 2 =")
    found = llm.loglikelihood([(context, [token_id]) for token_id in range(num_ids)])
    assert sum(math.exp(one.logprob) for one in found) == pytest.approx(1.0, abs=1e-3)
    assert sum(one.is_greedy for one in found) == 1


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (([5], []), "pair 1: the continuation has no tokens"),
        (("a", ""), "pair 1: the continuation has no tokens"),
        (([5], [10**9]), "pair 1: the prompt has ids outside"),
        (("a" * 100_000, "b"), "pair 1: "),
    ],
)
def test_a_pair_that_cannot_be_served_is_named(llm: LLM, pair, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        llm.loglikelihood([("2 + 2 =", " 4"), pair])
