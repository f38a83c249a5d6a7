"""Streaming gives the text of decoding everything at once, only earlier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import RequestError, SettingError
from qwartet.tokenizer.stream import TextStream
from tests.tokenizer.vocabularies import SMALL_N, small_tokenizer

TOKENIZER = small_tokenizer()
ANY_IDS = st.lists(st.integers(0, SMALL_N + 207))
FEW_LETTERS = st.lists(st.sampled_from([*b"ab", *"你".encode(), TOKENIZER.encode("ab")[0], TOKENIZER.im_end_id]))


def streamed(ids: list[int], stop: list[str], **options: object) -> tuple[str, str | None]:
    stream = TextStream(TOKENIZER, stop, **options)  # type: ignore[arg-type]
    text = "".join(map(stream.push, ids)) + stream.finish()
    return text, stream.stopped_by


@given(ids=ANY_IDS, errors=st.sampled_from(["replace", "ignore"]), skip=st.booleans())
def test_pieces_together_are_the_text_decoded_at_once(ids: list[int], errors: str, skip: bool) -> None:
    text, _ = streamed(ids, [], errors=errors, skip_special_tokens=skip)
    assert text == TOKENIZER.decode(ids, errors=errors, skip_special_tokens=skip)


@given(ids=FEW_LETTERS, stop=st.lists(st.text("ab你", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_stop_string_that_is_complete_first(ids: list[int], stop: list[str]) -> None:
    whole = TOKENIZER.decode(ids, skip_special_tokens=True)
    ends = {string: whole.find(string) + len(string) for string in stop if string in whole}
    text, stopped_by = streamed(ids, stop)
    if not ends:
        assert (text, stopped_by) == (whole, None)
    else:
        first = min(ends, key=lambda string: (ends[string], -len(string)))
        assert (text, stopped_by) == (whole[: ends[first] - len(first)], first)


@given(ids=FEW_LETTERS, stop=st.lists(st.text("ab你", min_size=1, max_size=4), min_size=1, max_size=3))
def test_only_what_may_become_a_stop_string_is_held_back(ids: list[int], stop: list[str]) -> None:
    stream = TextStream(TOKENIZER, stop, errors="ignore")
    given_out = ""
    for i, token_id in enumerate(ids):
        given_out += stream.push(token_id)
        if stream.stopped_by is not None:
            return
        whole = TOKENIZER.decode(ids[: i + 1], skip_special_tokens=True, errors="ignore")
        held = whole[len(given_out) :]
        assert whole.startswith(given_out)
        assert held == "" or any(string.startswith(held) for string in stop)


def test_an_unfinished_character_waits_for_its_last_byte() -> None:
    stream = TextStream(TOKENIZER)
    assert [stream.push(byte) for byte in "你!".encode()] == ["", "", "你", "!"]


@pytest.mark.parametrize(("errors", "end"), [("replace", "\ufffd"), ("ignore", "")])
def test_an_unfinished_character_at_the_end_is_answered_as_errors_says(errors: str, end: str) -> None:
    assert streamed([ord("a"), 0xE4], [], errors=errors) == (f"a{end}", None)


def test_a_stop_string_over_token_borders_is_held_back_and_swallowed() -> None:
    stream = TextStream(TOKENIZER, ["\nObservation:"])
    text = "".join(stream.push(byte) for byte in b"{}\nObservation: 7\n")
    assert (text, stream.stopped_by, stream.finish()) == ("{}", "\nObservation:", "")


def test_a_false_start_of_a_stop_string_is_released() -> None:
    stream = TextStream(TOKENIZER, ["stop"])
    assert [stream.push(byte) for byte in b"stor"] == ["", "", "", "stor"]
    assert [stream.push(byte) for byte in b"ssto"] == ["", "s", "", ""]
    assert stream.finish() == "sto"


@pytest.mark.parametrize(
    ("text", "stop", "out", "stopped_by"),
    [
        ("xaaab", ["aab"], "xa", "aab"),  # the match starts inside a failed one
        ("ababac", ["abac"], "ab", "abac"),
        ("xab", ["b", "ab"], "x", "ab"),  # two end together: the longer
        ("xabc", ["abc", "ab"], "x", "ab"),  # the first to be complete
        ("xbcb", ["c", "b"], "x", "b"),
    ],
)
def test_which_stop_string_ends_the_text(text: str, stop: list[str], out: str, stopped_by: str) -> None:
    assert streamed([*text.encode()], stop) == (out, stopped_by)


def test_special_tokens_in_a_stream_are_left_out_unless_wanted() -> None:
    ids = [ord("a"), TOKENIZER.im_end_id, ord("b")]
    assert streamed(ids, [])[0] == "ab"
    assert streamed(ids, [], skip_special_tokens=False)[0] == "a<|im_end|>b"


def test_a_long_repetitive_stop_string_costs_no_more_than_the_text() -> None:
    stop = "a" * 20_000 + "b"
    text, stopped_by = streamed([*b"a" * 60_000], [stop])  # a search from the start each time: 10^9 steps
    assert (len(text), stopped_by) == (60_000, None)


def test_impossible_settings_and_ids_are_refused() -> None:
    with pytest.raises(SettingError, match="a stop string is empty"):
        TextStream(TOKENIZER, [""])
    with pytest.raises(SettingError, match="errors is 'strict'"):
        TextStream(TOKENIZER, errors="strict")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="is not a token id"):
        TextStream(TOKENIZER).push(10**6)
