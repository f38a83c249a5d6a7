"""Runs the commands of a card; those that an earlier run of the same card has answered are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from qwartet import __version__
from qwartet.bench.own_command import own_json
from qwartet.card.compression import compression
from qwartet.card.file import NAME, CardData, Measured, read_card
from qwartet.card.steps import CardSettings, Step, steps
from qwartet.card.subject import checkpoint
from qwartet.errors import SettingError, VocabularyError
from qwartet.hub.resolve import resolve
from qwartet.models.vocabulary_files import load_tokenizer

_RESUME = ("evaluate", "profile")  # kinds of steps that go on from what an earlier run left
OnStep = Callable[[int, int, Step], object]


def measure_card(
    settings: CardSettings, *, overwrite: bool = False, on_step: OnStep = lambda _number, _of, _step: None
) -> CardData:
    """The card's content, kept in DIRECTORY/card.json; `on_step` is told each command before it runs, and its number.

    A command that fails leaves its part of the card unmeasured, with the reason. SettingError for a card.json that is
    none, and for models that cannot be found.
    """
    path = settings.directory / NAME
    wanted = list(steps(settings))
    done = {} if overwrite or not path.exists() else _reusable(read_card(path))
    counts = _compression(resolve(settings.models[0].location))
    names = tuple(model.name for model in settings.models)
    data = CardData(names, __version__, _today(), counts, ())
    for number, step in enumerate(wanted, start=1):
        data = replace(data, steps=tuple(done[one.command] for one in wanted if one.command in done))
        data.write(path)
        if step.command in done or (step.kind == "answer" and not (counts and checkpoint(data, data.subject).is_chat)):
            continue
        on_step(number, len(wanted), step)
        done[step.command] = _run(step, ("--overwrite",) if overwrite and step.kind in _RESUME else ())
    data = replace(data, steps=tuple(done[one.command] for one in wanted if one.command in done))
    data.write(path)
    return data


def _compression(directory: Path) -> dict[str, dict[str, int]]:
    """Of a model's tokenizer; empty for one without a vocabulary, as `qwartet synth` writes it."""
    try:
        return compression(load_tokenizer(directory))
    except VocabularyError:
        return {}


def _reusable(earlier: CardData) -> dict[str, Measured]:
    """What an earlier run of this version has measured, by command."""
    return {step.command: step for step in earlier.steps if step.output is not None and step.version == __version__}


def _run(step: Step, more: tuple[str, ...]) -> Measured:
    output, failure = None, None
    try:
        output = step.kept(own_json(*step.arguments, *more, shows_stderr=True))
    except SettingError as error:
        failure = str(error)
    return Measured(step.kind, step.command, step.model, step.shots, __version__, _today(), output, failure)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
