"""Forbidden ids, small enough to check by hand, and end to end: what a request forbids does not come."""

from __future__ import annotations

import pytest

from qwartet.engine.engine import Engine
from qwartet.engine.forbidden import NgramIndex, forbidden_ids
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import RequestError, SettingError
from tests.reference.tiny_model import tiny_network, tiny_weights

PROMPT = (5, 6, 7, 5, 6)


def index_of(size: int, ids: tuple[int, ...]) -> NgramIndex:
    index = NgramIndex(size)
    for token_id in ids:
        index.add(token_id)
    return index


@pytest.mark.parametrize(
    ("size", "ids", "drafts", "expected"),
    [
        (1, (4, 5, 4), [], {4, 5}),  # no id twice
        (2, (4, 5, 4), [], {5}),
        (3, (5, 6, 7, 5, 6), [], {7}),
        (3, (5, 6, 7, 5), [6], {7}),  # the run is completed by a draft
        (3, (5, 6), [7, 5, 6], {7}),  # it stands in drafts alone
        (2, (), [4, 4], {4}),
        (3, (5,), [], set()),  # fewer ids than a run has
        (9, (1, 1, 1), [1], set()),
    ],
)
def test_what_would_make_a_run_of_ids_stand_twice_is_found(
    size: int, ids: tuple[int, ...], drafts: list[int], expected: set[int]
) -> None:
    assert index_of(size, ids).followers(drafts) == expected


@pytest.mark.parametrize(
    ("settings", "completion", "expected"),
    [
        ({"suppress_tokens": [3, 4]}, [9], {3, 4}),
        ({"begin_suppress_tokens": [3]}, [], {3}),
        ({"begin_suppress_tokens": [3]}, [9], set()),
        ({"min_tokens": 2}, [9], {2}),
        ({"min_tokens": 2}, [9, 9], set()),
        ({"min_length": 7}, [9], {2}),  # prompt and completion together
        ({"min_length": 7}, [9, 9], set()),
        ({"bad_words_ids": [[8], [2]]}, [], {8}),  # the stop token alone is no bad word
        ({"bad_words_ids": [[6, 4], [5, 6, 3], [6, 6, 9]]}, [], {4, 3}),
        ({"bad_words_ids": [[6, 9, 4]]}, [9], {4}),  # across the end of the prompt
    ],
)
def test_each_setting_forbids_its_ids(settings: dict, completion: list[int], expected: set[int]) -> None:
    request = Request(
        0, list(PROMPT), SamplingParams(**settings), stop_token_ids=frozenset({2}), completion_ids=completion
    )
    assert forbidden_ids(request, 0, None) == expected


def test_a_run_longer_than_the_text_is_not_looked_for_as_in_the_original() -> None:
    params = SamplingParams(bad_words_ids=[[5, 6, 7]])
    assert forbidden_ids(Request(0, [5, 6], params), 0, None) == set()
    assert forbidden_ids(Request(0, [4, 5, 6], params), 0, None) == {7}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_network(tiny_weights()))


def complete(engine: Engine, **settings: object) -> Request:
    params = SamplingParams(temperature=0, **{"max_tokens": 12, **settings})
    request = engine.add_request(PROMPT, params, RequestOptions((2,)))
    while engine.has_unfinished:
        engine.step()
    assert request.error is None, request.error
    return request


def test_greedy_texts_obey_every_setting(engine: Engine) -> None:
    plain = complete(engine).completion_ids
    assert plain[0] != complete(engine, begin_suppress_tokens=[plain[0]]).completion_ids[0]
    assert plain[0] not in complete(engine, suppress_tokens=[plain[0]]).completion_ids
    assert plain[0] not in complete(engine, bad_words_ids=[[plain[0]]]).completion_ids
    assert plain[1] != complete(engine, bad_words_ids=[plain[:2]]).completion_ids[1]
    ids = [*PROMPT, *complete(engine, no_repeat_ngram_size=1).completion_ids]
    assert len(set(ids) | {*PROMPT}) == len(ids) - 2  # the prompt itself has two ids twice


def test_max_length_counts_the_prompt_and_max_tokens_takes_its_place(engine: Engine) -> None:
    assert len(complete(engine, max_length=8).completion_ids) == 3
    params = SamplingParams(max_length=8)
    assert params.updated({"max_tokens": 4}).max_length is None
    assert params.updated({"max_tokens": 4, "max_length": 6}).max_length == 6
    with pytest.raises(RequestError, match="max_length is 5, but the prompt alone has 5 tokens; use max_tokens"):
        engine.add_request(PROMPT, SamplingParams(max_length=5))


@pytest.mark.parametrize("name", ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids"])
def test_ids_that_are_none_are_refused_by_name(engine: Engine, name: str) -> None:
    ids: list = [10**6]
    with pytest.raises(SettingError, match=f"{name} has token 1000000, but the vocabulary") as caught:
        engine.check(PROMPT, SamplingParams(**{name: [ids] if name == "bad_words_ids" else ids}))
    assert caught.value.param == name
    for bad in ([-1], ["a"], [True], 5, [[]]):
        with pytest.raises(SettingError, match=f"{name} is .* must be a list of "):
            SamplingParams(**{name: bad})


@pytest.mark.parametrize(
    ("name", "value"), [("num_beams", 4), ("penalty_alpha", 0.6), ("typical_p", 0.5), ("guidance_scale", 2.0)]
)
def test_what_transformers_can_and_this_engine_cannot_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"{name} is {value}: there is no .*; leave it out"):
        SamplingParams().updated({name: value})
    neutral = {"num_beams": 1, "penalty_alpha": 0, "typical_p": 1.0, "guidance_scale": 1}[name]
    assert SamplingParams().updated({name: neutral}) == SamplingParams()
