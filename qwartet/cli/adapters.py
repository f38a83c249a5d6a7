"""LoRA adapters on the command line: --lora NAME=DIR."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

from qwartet.errors import SettingError

Loras = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=DIR",
        help="LoRA adapter (PEFT) that requests choose as model NAME; repeatable.",
        show_default=False,
    ),
]


def adapter_directories(given: Sequence[str], taken: Collection[str] = ()) -> dict[str, Path]:
    """Name -> directory; SettingError for another form, a name that the model or another adapter has, or no directory.

    `taken`: the model's names.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise SettingError(f"--lora is {text!r:.120}; write NAME=DIR, such as --lora tickets=./tickets-lora")
        if name in taken or name in found:
            raise SettingError(f"--lora {name!r:.80} has a name that is taken; choose another")
        found[name] = directory_of(place)
    return found


def directory_of(place: str | Path) -> Path:
    """A directory as given; SettingError if it is none."""
    directory = Path(place).expanduser()
    if not directory.is_dir():
        raise SettingError(f"--lora: {directory} is not a directory; give that of an adapter saved by PEFT")
    return directory
