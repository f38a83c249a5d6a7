"""Prose of our own: without end, without a repeated sentence, without digits, the same each time."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from qwartet.evaluate.filler.prose import paragraphs, prose
from tests.evaluate.bundled import tokenizer


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_sentence_comes_twice(language) -> None:
    text = "\n".join(islice(paragraphs(language, 0), 400))
    sentences = re.findall(r"[^.。\n]+[.。]", text)
    assert len(sentences) > 1600  # more than 32k tokens
    assert len({sentence.strip() for sentence in sentences}) == len(sentences)
    assert not re.search(r"\d|[{}]", text)


def test_a_seed_gives_the_same_prose_and_another_seed_other_prose() -> None:
    first = [next(paragraphs("en", seed)) for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    # Runs of other versions are compared with each other: the words may not change without notice.
    assert first[0].startswith(
        "A storm was gathering in the west, and people on the upper floor talked about the merits"
    )
    assert next(paragraphs("zh", 0)).startswith("西边正在聚起雷雨，人们在楼上谈起石板屋顶的好处，带着几分得意。")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_prose_has_the_tokens_asked_for(language) -> None:
    text = prose(language, 3, 2000, tokenizer())
    assert 2000 <= len(tokenizer().encode(text)) < 2600
