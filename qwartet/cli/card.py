"""`qwartet card`: a checkpoint's model card, its figures measured; or the published tables."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwartet.cli.extras import require
from qwartet.cli.language.catalogue import language_in_use, translate
from qwartet.cli.loading import own_names
from qwartet.cli.options import AsJson
from qwartet.cli.terminal import json_line, one_line, untranslated_line
from qwartet.errors import SettingError

if TYPE_CHECKING:
    from qwartet.card.steps import CardSettings, Step


def card(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Checkpoint directories or hub ids: the card is of the first, the others are compared with it.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for card.html, card.md, card.zh.md, card.json and the runs.")
    ] = Path("card"),
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated; all: every task whose data is present.")] = "all",
    data: Annotated[Path, typer.Option(help="Directory of the published data files.")] = Path("data"),
    shots: Annotated[
        str | None,
        typer.Option(
            help="Worked examples, comma-separated: one run for each.", show_default="the task's usual number"
        ),
    ] = None,
    evaluate_options: Annotated[
        str, typer.Option(help='More options of qwartet evaluate, in one string: "--limit 100 --needles 3".')
    ] = "",
    profile_options: Annotated[
        str, typer.Option(help='Options of qwartet profile, in one string: "--contexts 1,1024 --generate 128".')
    ] = "",
    evaluate: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Run the tasks.")] = True,
    profile: Annotated[bool, typer.Option("--profile/--no-profile", help="Measure speed and memory.")] = True,
    collect: Annotated[
        bool, typer.Option("--collect", help="Measure nothing; make the pages from OUT/card.json.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over instead of resuming.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Only print the published tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint's model card from measurements.

    Runs inspect, plan, chat, evaluate and profile, and writes the results next to the published figures as Markdown and
    as one HTML page, in English and Chinese. An interrupted run resumes; what was not measured is shown as such.
    """
    if published:
        _print_published(as_json)
        return
    require("evaluate", "card", "markdown_it", "matplotlib")
    from qwartet.card.file import NAME, read_card
    from qwartet.card.files import write_card
    from qwartet.card.measure import measure_card

    if collect:
        content = read_card(out / NAME)
    else:
        if not model:
            raise SettingError("no model named; pass a checkpoint directory or a hub id, or --published")
        settings = _settings(model, out, tasks, data, shots, evaluate_options, profile_options)
        settings = replace(settings, evaluates=evaluate, profiles=profile)
        content = measure_card(settings, overwrite=overwrite, on_step=_say)
    paths = write_card(out, content)
    if as_json:
        print(json_line({"files": [str(path) for path in paths]}))
        return
    for path in paths:
        print(untranslated_line(str(path)))


def _settings(
    models: list[str],
    out: Path,
    tasks: str,
    data: Path,
    shots: str | None,
    evaluate_options: str,
    profile_options: str,
) -> CardSettings:
    from qwartet.card.steps import CardModel, CardSettings

    short = [own_names(model)[-1] for model in models]
    names = short if len(set(short)) == len(short) else models
    return CardSettings(
        models=tuple(CardModel(name, model) for name, model in zip(names, models, strict=True)),
        directory=out,
        tasks=tasks,
        data=data,
        shots=(None,) if shots is None else tuple(dict.fromkeys(_shots(part) for part in shots.split(","))),
        evaluate_options=tuple(_words("--evaluate-options", evaluate_options)),
        profile_options=tuple(_words("--profile-options", profile_options)),
    )


def _shots(text: str) -> int:
    if not text.strip().isdecimal():
        raise SettingError(f"--shots has {text!r:.40}; it must be numbers with commas between them", param="shots")
    return int(text)


def _words(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingError(f"{option} cannot be read ({error}); close the quotation mark") from None


def _say(number: int, total: int, step: Step) -> None:
    print(one_line(f"[{number}/{total}] {step.command}"), file=sys.stderr)


def _print_published(as_json: bool) -> None:
    from qwartet.card.published import published_tables

    tables = published_tables().values()
    if as_json:
        print(json_line({"tables": [table.to_dict() for table in tables]}))
        return
    language = language_in_use()
    for table in tables:
        print(f"## {table.title[language]}\n\n{table.table(language).markdown()}\n")
        if table.note:
            print(f"{table.note[language]}\n")
        print(translate(f"Source: {table.source[language]}") + "\n")
