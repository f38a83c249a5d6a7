"""Tables of scores: each task as measured, as published, and the difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qwartet.card.file import CardData
from qwartet.card.published import PublishedScore, published_score, published_tables
from qwartet.card.subject import Checkpoint, checkpoint
from qwartet.card.table import NONE, Language, Table
from qwartet.card.words import word

CARD_MODEL = "Qwen-72B-Chat"  # whose published figures stand beside a model that has none of its own
QUANTIZATION_TASKS = {"mmlu": "MMLU", "ceval": "C-Eval (val)", "gsm8k": "GSM8K", "humaneval": "HumanEval"}
# SHA-256 of the published files, as a task's settings have it, by the number of shots.
PUBLISHED_DATA = {
    ("mmlu", 0): "c6772d076629cf4caec7d23380a80c637b91a62ee75c66dfd9ba7d47a2ea9e4d",
    ("mmlu", 5): "415cc237affdf1692b1010cf82ea7d8b904edccc857e0e4251fcda278c788f48",
    ("gsm8k", 0): "9b7b6d48bb9b3deb31b68d2f15f666ecd99160218a3dc9aa1e209cae33f167b8",
    ("gsm8k", 8): "9029a709039efe15e2fe99e854a02e4133a7b057b9cfe5dc0439a91d98716dd6",
    ("humaneval", 0): "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
}
OTHER_DATA = "†"  # after a score on other questions than the published
_OTHER_PARTS = ("depth ",)  # figures that a table leaves out


@dataclass(frozen=True)
class Score:
    """What one run of a task came to."""

    model: Checkpoint
    task: str
    shots: int
    figures: list[dict[str, Any]]
    num_questions: int
    sha256: str | None

    @property
    def is_published_data(self) -> bool | None:
        """Whether the questions are the published ones; None where that is not known."""
        known = PUBLISHED_DATA.get((self.task, self.shots))
        return None if known is None or self.sha256 is None else self.sha256 == known

    def published(self, figure: str) -> PublishedScore | None:
        """The published figure of the same checkpoint."""
        if self.model.size is None:
            return None
        return published_score(
            self.model.size, self.model.precision, self.task, figure, self.shots, is_chat=self.model.is_chat
        )


def scores(data: CardData, task: str) -> list[Score]:
    """All runs of a task, in the order in which they were measured."""
    found = []
    for step in data.of("evaluate"):
        result = (step.output or {})["tasks"].get(task)
        if result is not None and step.model is not None:
            settings = result["settings"]
            found.append(
                Score(
                    checkpoint(data, step.model), task, settings.get("shots", 0), result["figures"],
                    result["num_questions"], settings.get("sha256"),
                )
            )  # fmt: skip
    return found


def score_table(data: CardData, task: str, language: Language) -> Table | None:
    """A task's runs, the published figures of the same checkpoints, and the differences; None where nothing was run."""
    found = scores(data, task)
    if not found:
        return None
    names = _figure_names(found)
    rows = [row for score in found for row in _rows(score, names, language)]
    headings = [word(name, language) for name in ("model", *names, "questions")]
    return Table(headings, rows)


def _figure_names(found: Sequence[Score]) -> list[str]:
    names = dict.fromkeys(figure["name"] for score in found for figure in score.figures)
    return [name for name in names if not name.startswith(_OTHER_PARTS)]


def _rows(score: Score, names: Sequence[str], language: Language) -> Iterator[list[str]]:
    figures = {figure["name"]: figure for figure in score.figures}
    shots = f", {word(f'{score.shots}-shot', language)}" if score.task in ("mmlu", "ceval", "gsm8k") else ""
    own = [_measured(figures.get(name), name == names[0], language) for name in names]
    yield [f"{score.model.name}{shots} ({word('measured', language)})", *own, f"{score.num_questions:,}"]
    published = {name: score.published(name) for name in names if name in figures}
    if any(published.values()):
        model = next(one.model for one in published.values() if one is not None)
        values = [NONE if (one := published.get(name)) is None else f"{one.value:g}" for name in names]
        yield [f"{model}{shots} ({word('published', language)})", *values, NONE]
        yield [word("difference", language), *(_difference(figures, published, name) for name in names), NONE]


def _measured(figure: dict[str, Any] | None, is_main: bool, language: Language) -> str:
    if figure is None:
        return NONE
    text = f"{figure['value']:.1f}" if figure["unit"] == "%" else f"{figure['value']:.3f}"
    if not is_main or figure["low"] is None:
        return text
    between = " to " if language == "en" else "–"
    return f"{text} ({figure['low']:.1f}{between}{figure['high']:.1f})"


def _difference(figures: dict[str, Any], published: dict[str, PublishedScore | None], name: str) -> str:
    one = published.get(name)
    return NONE if one is None else f"{figures[name]['value'] - one.value:+.1f}"


def quantization_table(data: CardData, language: Language) -> Table:
    """The card's first table: each precision's main figure in the card's tasks, and in whatever else was run."""
    measured = dict.fromkeys(task for step in data.of("evaluate") for task in (step.output or {})["tasks"])
    others = [task for task in measured if task not in QUANTIZATION_TASKS and task != "ceval-test"]
    tasks = [*QUANTIZATION_TASKS, *others]
    headings = [word("model", language), *(QUANTIZATION_TASKS.get(task, word(task, language)) for task in tasks)]
    rows = []
    for name in data.models:
        model = checkpoint(data, name)
        mine = [next((score for score in scores(data, task) if score.model.name == name), None) for task in tasks]
        label = f"{name}, {model.precision_name}"
        cells = [_main(score, language) for score in mine]
        rows.append([f"{label} ({word('measured', language)})", *cells])
        if model.size is not None and model.is_chat:
            rows += _published_rows(model, tasks, mine, language)
    if checkpoint(data, data.subject).size is None:
        rows += _card_rows(tasks, language)
    return Table(headings, rows)


def _main(score: Score | None, language: Language) -> str:
    if score is None:
        return word("not measured", language)
    figure = score.figures[0]
    text = f"{figure['value']:.1f}" if figure["unit"] == "%" else f"{figure['value']:.3f}"
    return f"{text} {OTHER_DATA}" if score.is_published_data is False else text


def _published_rows(
    model: Checkpoint, tasks: Sequence[str], mine: Sequence[Score | None], language: Language
) -> Iterator[list[str]]:
    table = published_tables()[f"quantization-{model.size}"]
    values = [table.value(model.precision_name, QUANTIZATION_TASKS.get(task, "")) for task in tasks]
    name = f"Qwen-{(model.size or '').upper()}-Chat, {model.precision_name}"
    yield [f"{name} ({word('published', language)})", *(NONE if value is None else f"{value:g}" for value in values)]
    differences = [
        NONE if value is None or score is None or score.shots else f"{score.figures[0]['value'] - value:+.1f}"
        for value, score in zip(values, mine, strict=True)
    ]
    yield [word("difference", language), *differences]


def _card_rows(tasks: Sequence[str], language: Language) -> Iterator[list[str]]:
    """For a model that has no published figures: those of the published card, to compare the form."""
    table = published_tables()["quantization-72b"]
    for precision, *_ in table.rows:
        values = [table.value(precision, QUANTIZATION_TASKS.get(task, "")) for task in tasks]
        cells = (NONE if value is None else f"{value:g}" for value in values)
        yield [f"{CARD_MODEL}, {precision} ({word('published', language)})", *cells]


def comparison_table(data: CardData, language: Language) -> Table | None:
    """Pairs of runs with the same questions: further models against the card's; None where there are none."""
    rows = []
    for step in data.of("compare"):
        for task, one in (step.output or {})["tasks"].items():
            low, high = 100 * one["low"], 100 * one["high"]
            between = " to " if language == "en" else " – "
            rows.append(
                [
                    f"{data.subject} / {step.model}", task, f"{one['count']:,}",
                    f"{100 * one['first']:.2f}", f"{100 * one['second']:.2f}",
                    f"{100 * (one['second'] - one['first']):+.2f} ({low:+.2f}{between}{high:+.2f})",
                    f"{one['num_only_second']}", f"{one['num_only_first']}", f"{one['p_value']:.3f}",
                ]
            )  # fmt: skip
    if not rows:
        return None
    names = (
        "models", "task", "items", "the other", "this model", "difference (95 %)", "only this right",
        "only the other right", "p (McNemar)",
    )  # fmt: skip
    return Table([word(name, language) for name in names], rows, num_names=2)
