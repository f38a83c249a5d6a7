"""`nfc` is `unicodedata.normalize`, only never slow."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.tokenizer.normalize import LONG_RUN, nfc

MARKS = "\u0301\u0315\u0323\u0344\u0345\u05b0\u0f71\u0f73\u0f81\u3099\U0001d165"
OTHERS = "aeé\u1100\u1161\u11a8가\ud800你"


@given(st.lists(st.sampled_from(OTHERS) | st.text(MARKS, min_size=LONG_RUN - 3, max_size=LONG_RUN + 40), max_size=4))
def test_long_runs_of_marks_normalise_as_unicodedata_does(parts: list[str]) -> None:
    text = "".join(parts)
    assert nfc(text) == unicodedata.normalize("NFC", text)


@given(st.text(max_size=300))
def test_any_text_normalises_as_unicodedata_does(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("run", ["\u0315\u0300", "\u0f73", "\u0301\u0344\u0323"])
def test_a_megabyte_of_marks_takes_seconds_and_not_a_quarter_of_an_hour(run: str) -> None:
    start = time.thread_time()
    nfc("a" + run * (1_000_000 // len(run)))
    assert time.thread_time() - start < 20  # about 0.5 s where it is idle; unicodedata alone: 750 s
