"""Sampling settings: what is accepted, what is refused and with which words."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import SettingError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("min_tokens", -1),
        ("min_tokens", 513),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 10**400),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("repetition_penalty", 0),
        ("repetition_penalty", None),
        ("seed", -1),
        ("seed", 1.0),
        ("stop", "text"),
        ("stop", ("",)),
        ("stop", None),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", 5),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"^{name} is "):
        SamplingParams(**{name: value})


anything = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
)


@given(st.sampled_from([field.name for field in fields(SamplingParams)]), anything)
def test_any_value_is_accepted_or_refused_with_a_setting_error(name: str, value: object) -> None:
    for make in (lambda: SamplingParams(**{name: value}), lambda: SamplingParams().updated({name: value})):
        try:
            make()
        except SettingError as error:
            assert name in str(error)


def test_the_published_names_are_understood() -> None:
    params = SamplingParams().updated({"max_new_tokens": 7, "min_new_tokens": 2, "do_sample": False, "top_p": None})
    assert params == SamplingParams(max_tokens=7, min_tokens=2, temperature=0.0)
    assert params.is_greedy


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingError, match="'temprature'; did you mean temperature"):
        SamplingParams().updated({"temprature": 1})
    with pytest.raises(SettingError, match="unknown sampling setting 'x'; use one of adapter, bad_words_ids, begin_"):
        SamplingParams().updated({"x": 1})


def test_lists_become_tuples() -> None:
    assert SamplingParams().updated({"stop": ["a"], "stop_token_ids": [1]}) == SamplingParams(
        stop=("a",), stop_token_ids=(1,)
    )


def test_fewer_max_tokens_lower_the_minimum_too() -> None:
    assert SamplingParams(max_tokens=9, min_tokens=5).updated({"max_tokens": 3}).min_tokens == 3


@pytest.mark.parametrize(
    ("changes", "is_greedy"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 1e-30}, True),
        ({"top_k": 1}, True),
        ({}, False),
        ({"temperature": 0.01}, False),
    ],
)
def test_greedy_is_no_temperature_or_one_candidate(changes: dict, is_greedy: bool) -> None:
    assert SamplingParams(**changes).is_greedy is is_greedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", 1.5), ("presence_penalty", 101), ("frequency_penalty", float("nan")), ("n", 0), ("n", 10**9),
        ("logprobs", 21), ("logprobs", -1), ("prompt_logprobs", 1.0), ("priority", "high"), ("structure", "json"),
        ("logit_bias", {5: 101}), ("logit_bias", {-1: 1}), ("logit_bias", {"5": 1}), ("logit_bias", [5]),
    ],
)  # fmt: skip
def test_a_setting_out_of_bounds_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=name):
        SamplingParams(**{name: value})


def test_logit_bias_is_kept_as_pairs_that_nobody_can_change() -> None:
    bias = {5: 1, 7: -2.5}
    params = SamplingParams(logit_bias=bias)
    bias[5] = 100
    assert params.logit_bias == ((5, 1.0), (7, -2.5))
    assert params.updated({"n": 2}).logit_bias == params.logit_bias


def test_biases_of_one_token_add_up() -> None:
    assert SamplingParams(logit_bias=((5, 1), (7, 2.0), (5, -3))).logit_bias == ((5, -2.0), (7, 2.0))
