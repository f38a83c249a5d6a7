"""Whitespace runs that tiktoken cannot take give the ids that it would give if it could."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import RequestError
from qwartet.tokenizer.long_whitespace import MAX_WHITESPACE_RUN, encode_long_whitespace, find_long_whitespace
from tests.tokenizer.vocabularies import small_tokenizer

LONG = MAX_WHITESPACE_RUN + 100_001  # tiktoken itself gives up at 999,999

# Whitespace of every kind, \x1c that only Python takes for it, and all kinds of neighbours.
WHITESPACE = " \t\n\r\x0b\x85\xa0\u2003\u2028\u3000"
TEXT = st.lists(
    st.text(WHITESPACE, min_size=1, max_size=6)
    | st.sampled_from(["a", "7", "!", "_", "\x1c", "'s", "你", "²", "\u0301"]),
    max_size=8,
).map("".join)


@given(text=TEXT, longer_than=st.integers(0, 4))
def test_ids_by_cut_runs_equal_tiktokens(text: str, longer_than: int) -> None:
    encoding = small_tokenizer().encoding
    assert encode_long_whitespace(encoding, text, {}, longer_than) == encoding.encode_ordinary(text)


@pytest.mark.parametrize(
    "text",
    ["a\n \n b", "7\n \n!", "!\n \n b", "!\n\n\n", "a  \n  b", "a   ", "   a", "\n  !", "a  7", "a\u3000\u3000!"],
)
def test_each_kind_of_cut_falls_where_tiktoken_puts_it(text: str) -> None:
    encoding = small_tokenizer().encoding
    assert encode_long_whitespace(encoding, text, {}, 0) == encoding.encode_ordinary(text)


@given(parts=st.lists(TEXT, max_size=4), longer_than=st.integers(0, 3))
def test_special_tokens_between_runs_are_parsed_as_tiktoken_does(parts: list[str], longer_than: int) -> None:
    tokenizer = small_tokenizer()
    text = "<|im_end|>".join(parts) + "<|im_start|>"
    allowed = {"<|im_end|>": tokenizer.im_end_id}
    ids = encode_long_whitespace(tokenizer.encoding, text, allowed, longer_than)
    assert ids == tokenizer.encoding.encode(text, allowed_special=set(allowed), disallowed_special=())


def test_runs_are_found_where_they_are_longer_than_the_limit() -> None:
    assert find_long_whitespace("  a   b    ", 2) == [(3, 6), (7, 11)]


@pytest.mark.parametrize("unit", [" ", "\t", "\n", "\u3000", " \n"])
def test_a_run_beyond_tiktokens_limit_is_answered(unit: str) -> None:
    tokenizer = small_tokenizer()
    text = f"a{unit * (LONG // len(unit))}b\ud800"
    assert tokenizer.decode(tokenizer.encode(text)) == text[:-1] + "\ufffd"


def test_special_tokens_beside_a_long_run_are_parsed_only_where_allowed() -> None:
    tokenizer = small_tokenizer()
    text = " " * LONG + "<|im_end|>"
    assert tokenizer.im_end_id not in tokenizer.encode(text)
    assert tokenizer.encode(text, allowed_special="all")[-1] == tokenizer.im_end_id
    with pytest.raises(RequestError, match="disallowed special token '<|im_end|>'".replace("|", r"\|")):
        tokenizer.encode(text, disallowed_special="all")
