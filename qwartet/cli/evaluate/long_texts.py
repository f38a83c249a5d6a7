"""Options of the tasks about long texts: the needle in a haystack, and perplexity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwartet.cli.units import parse_count
from qwartet.errors import SettingError

if TYPE_CHECKING:
    from qwartet.evaluate.tasks.needle.settings import NeedleSettings
    from qwartet.evaluate.tasks.perplexity import PerplexitySettings


@dataclass(frozen=True)
class NeedleOptions:
    """What is hidden in what, how deep in how long a text."""

    needle_lengths: Annotated[
        str, typer.Option(help="Prompt plus answer, in tokens; lengths beyond the model's context are skipped.")
    ] = "1K,4K,8K,12K,16K,20K,24K,28K,32K"
    needle_depths: Annotated[
        str, typer.Option(help="Number of evenly spaced depths, or a list of per cents: 0,50,100.")
    ] = "10"
    needles: Annotated[int, typer.Option(help="Needles per length and depth, each in different hay.")] = 1
    needle_language: Annotated[Literal["en", "zh"], typer.Option(help="Language of needle and question.")] = "en"
    hay: Annotated[
        str | None,
        typer.Option(
            help="Text around the needle: en or zh (generated prose), or a text file.",
            show_default="same as --needle-language",
        ),
    ] = None
    needle_buffer: Annotated[int, typer.Option(help="Tokens of each length reserved for question and answer.")] = 200
    needle_text: Annotated[
        str | None, typer.Option(help="Your own needle; needs --needle-question and --needle-answer.")
    ] = None
    needle_question: Annotated[str | None, typer.Option(help="Question about --needle-text.")] = None
    needle_answer: Annotated[str | None, typer.Option(help="Word or number that a correct answer contains.")] = None

    def settings(self) -> NeedleSettings:
        """As the task takes them; SettingError."""
        from qwartet.evaluate.tasks.needle.settings import NeedleSettings, OwnNeedle, evenly

        depths = _numbers(self.needle_depths, int, "--needle-depths")
        hay: Literal["en", "zh"] | Path | None = None
        if self.hay is not None:
            hay = self.hay if self.hay in ("en", "zh") else Path(self.hay)  # type: ignore[assignment]
        own = (self.needle_text, self.needle_question, self.needle_answer)
        return NeedleSettings(
            lengths=_numbers(self.needle_lengths, parse_count, "--needle-lengths"),
            depths=depths if "," in self.needle_depths else evenly(depths[0]),
            needles=self.needles,
            language=self.needle_language,
            hay=hay,
            buffer=self.needle_buffer,
            own=OwnNeedle(*(text or "" for text in own)) if any(own) else None,
        )


@dataclass(frozen=True)
class PerplexityOptions:
    """Which text is predicted, from how long a context."""

    perplexity_text: Annotated[
        Path | None,
        typer.Option(
            help='Text file, .jsonl with "text" fields, or directory of them.', show_default="perplexity/ in --data"
        ),
    ] = None
    perplexity_length: Annotated[str, typer.Option(help="Context lengths in tokens.")] = "1K,2K,4K,8K,16K,32K"
    perplexity_stride: Annotated[
        int | None, typer.Option(help="Tokens from one window to the next.", show_default="half the length")
    ] = None

    def settings(self) -> PerplexitySettings:
        """As the task takes them; SettingError."""
        from qwartet.evaluate.tasks.perplexity import PerplexitySettings

        lengths = _numbers(self.perplexity_length, parse_count, "--perplexity-length")
        return PerplexitySettings(self.perplexity_text, lengths, self.perplexity_stride)


def _numbers(text: str, parse: Callable[[str], int], option: str) -> tuple[int, ...]:
    """Numbers with commas between them, each once; SettingError, naming the option."""
    try:
        return tuple(dict.fromkeys(parse(part.strip()) for part in text.split(",")))
    except SettingError as error:
        raise SettingError(f"{option}: {error}") from None
    except ValueError:
        raise SettingError(f"{option} is {text!r:.40}; write whole numbers with commas, such as 0,50,100") from None
