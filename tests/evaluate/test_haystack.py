"""A needle stands behind the last sentence that ends before its depth, and the tokens stay within their number."""

from __future__ import annotations

import pytest

from qwartet.evaluate.filler.prose import prose
from qwartet.evaluate.tasks.needle.haystack import Haystack
from tests.evaluate.bundled import tokenizer

NEEDLE = "The secret number is 4711."
HAY = "First one here. Second one here! Third one here? Fourth one here. Fifth one here."


def placed(text: str, depth: int, needle: str = NEEDLE, num_tokens: int = 10_000) -> str:
    found = Haystack(tokenizer(), text).with_needle(needle, num_tokens, depth)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("depth", "before"),
    [
        (0, ""),
        (10, ""),  # within the first sentence: there is no end before
        (50, "First one here. Second one here! "),
        (79, "First one here. Second one here! Third one here? "),
        (100, "First one here. Second one here! Third one here? Fourth one here. Fifth one here. "),
    ],
)
def test_a_needle_stands_at_the_last_sentence_end_before_its_depth(depth: int, before: str) -> None:
    text = placed(HAY, depth)
    assert text == f"{before}{NEEDLE} {HAY[len(before) :]}".strip()


def test_chinese_has_no_spaces_around_a_needle() -> None:
    hay = "第一句话。第二句话！第三句话？第四句话。"
    assert placed(hay, 60, "秘密编号是4711。") == "第一句话。第二句话！秘密编号是4711。第三句话？第四句话。"
    assert placed(hay, 0, NEEDLE) == f"{NEEDLE} {hay}"
    assert placed(HAY, 100, "秘密编号是4711。") == f"{HAY} 秘密编号是4711。"


def test_points_within_numbers_end_no_sentence() -> None:
    assert placed("It weighs 3.5 or 4.5 or 5.5 or 6.5 kilos today.", 99) == (
        f"{NEEDLE} It weighs 3.5 or 4.5 or 5.5 or 6.5 kilos today."
    )


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("num_tokens", [150, 511, 1800])
def test_the_tokens_are_used_and_never_exceeded(language, num_tokens: int) -> None:
    hay = Haystack(tokenizer(), prose(language, 1, 2000, tokenizer()))
    for depth in range(0, 101, 5):
        text = hay.with_needle(NEEDLE, num_tokens, depth)
        assert text is not None and text.count(NEEDLE) == 1
        num_used = len(tokenizer().encode(text))
        assert num_tokens - 70 < num_used <= num_tokens  # less than a sentence is missing
        num_before = len(tokenizer().encode(text[: text.index(NEEDLE)]))
        assert num_before <= num_used * depth / 100 <= num_before + 70


def test_too_few_tokens_hold_no_needle() -> None:
    hay = Haystack(tokenizer(), HAY)
    assert hay.with_needle(NEEDLE, len(tokenizer().encode(NEEDLE)) + 2, 50) is None
    assert Haystack(tokenizer(), "no end of a sentence here").with_needle(NEEDLE, 1000, 50) is None
