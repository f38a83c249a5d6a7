"""Options of the needle and of perplexity become the tasks' settings, and wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwartet.cli.evaluate.long_texts import NeedleOptions, PerplexityOptions
from qwartet.errors import SettingError
from qwartet.evaluate.tasks.needle.settings import NeedleSettings
from qwartet.evaluate.tasks.perplexity import PerplexitySettings


def test_defaults_are_the_tasks_own() -> None:
    assert NeedleOptions().settings() == NeedleSettings()
    assert PerplexityOptions().settings() == PerplexitySettings()


def test_lengths_and_depths_are_read_as_people_write_them() -> None:
    found = NeedleOptions(needle_lengths="4K, 8000,32k", needle_depths="3").settings()
    assert (found.lengths, found.depths) == ((4096, 8000, 32000), (0, 50, 100))
    assert NeedleOptions(needle_depths="5,95").settings().depths == (5, 95)
    assert PerplexityOptions(perplexity_length="1K,512,1024").settings().lengths == (1024, 512)


def test_hay_is_a_language_or_a_file() -> None:
    assert NeedleOptions(hay="zh").settings().hay == "zh"
    assert NeedleOptions(hay="essays.txt").settings().hay == Path("essays.txt")
    assert NeedleOptions(needle_language="zh").settings().hay_language == "zh"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"needle_lengths": "4X"}, "--needle-lengths: '4X' is not a whole number"),
        ({"needle_depths": "ten"}, "--needle-depths is 'ten'; write whole numbers with commas"),
        ({"needle_depths": "0,200"}, "--needle-depths has 200; it must be between 0 and 100"),
        ({"needle_depths": "0"}, "--needle-depths is 0; it must be at least 1"),
        ({"needle_text": "The secret is 7."}, "a needle needs a text, a question and an answer"),
    ],
)
def test_wrong_needle_options_are_named(options: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        NeedleOptions(**options).settings()


def test_wrong_perplexity_options_are_named() -> None:
    with pytest.raises(SettingError, match="--perplexity-length: '' is not a whole number"):
        PerplexityOptions(perplexity_length="").settings()
