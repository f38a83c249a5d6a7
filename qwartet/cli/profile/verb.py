"""`qwartet profile`: speed and memory of checkpoints, in the rows of the published card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from qwartet.cli.extras import require
from qwartet.cli.loading import own_names
from qwartet.cli.options import Activations, AsJson, Head, Threads, count_option
from qwartet.cli.profile.progress import profile_progress
from qwartet.cli.profile.text import profile_lines
from qwartet.cli.terminal import json_line, untranslated_line
from qwartet.cli.units import parse_count
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve

if TYPE_CHECKING:
    from qwartet.bench.profile.file import ProfileFile
    from qwartet.bench.profile.settings import NamedModel

_T = TypeVar("_T")
DOCUMENT = "profile.md"


def profile(
    model: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Checkpoint directories or hub ids; several share one table."),
    ],
    contexts: Annotated[
        str, typer.Option(help="Prompt lengths in tokens, comma-separated; 6K is 6,144.")
    ] = "1,6144,14336,30720",
    generate: Annotated[int, count_option("Tokens to generate after each prompt.")] = 2048,
    kv_cache_dtype: Annotated[str, typer.Option(help="KV cache types, comma-separated: auto, int8, int4.")] = "auto",
    attention: Annotated[
        str | None,
        typer.Option(help="native, reference (PyTorch operations), or both, comma-separated.", show_default="native"),
    ] = None,
    activations: Activations = None,
    head: Head = "auto",
    threads: Threads = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also measure rows that do not fit according to qwartet plan.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for profile.json, profile.md and the roofline; later runs add rows."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over instead of resuming.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory as in the model card's table.

    Each row runs in its own process: a prompt of the given length, then exactly --generate tokens. It shows the card's
    speed, time to first token, time per output token, and peak memory next to the forecast of qwartet plan. Keep the
    machine otherwise idle. With --out, an interrupted run resumes where it stopped.
    """
    from qwartet.bench.profile.file import ProfileFile, facts_of
    from qwartet.bench.profile.run import measure_profile
    from qwartet.bench.profile.settings import NATIVE, REFERENCE, ProfileSettings
    from qwartet.kernels.cpu.library import native_library

    if out is not None:
        require("evaluate", "profile --out", "matplotlib")  # draws the roofline at the end
    default = REFERENCE if native_library() is None else NATIVE
    settings = ProfileSettings(
        models=_named(list(dict.fromkeys(model))),
        contexts=_listed("--contexts", contexts, parse_count),
        generate=generate,
        kv_cache_dtypes=_listed("--kv-cache-dtype", kv_cache_dtype, str),
        attention=(default.name,) if attention is None else _listed("--attention", attention, str),
        activations=activations, head=head, threads=threads, force=force,
    )  # fmt: skip
    file = ProfileFile(facts_of(settings), out, overwrite=overwrite)
    with profile_progress() as on_event:
        rows = measure_profile(settings, file, on_event)
    is_drawn = out is not None and _write_documents(file, out)
    if as_json:
        print(json_line({"profile": file.facts, "rows": [row.to_dict() for row in rows]}))
    else:
        for line in profile_lines(rows, out, is_drawn=is_drawn):
            print(untranslated_line(line))
    if any(row.status == "failed" for row in rows):
        raise typer.Exit(1)


def _named(models: list[str]) -> tuple[NamedModel, ...]:
    """Models under their short names, where these tell them apart."""
    from qwartet.bench.profile.settings import NamedModel

    short = [own_names(model)[-1] for model in models]
    names = short if len(set(short)) == len(short) else models
    return tuple(NamedModel(name, resolve(model)) for name, model in zip(names, models, strict=True))


def _listed(option: str, text: str, read: Callable[[str], _T]) -> tuple[_T, ...]:
    """The values of a list with commas, each once. SettingError, naming the option, for one that cannot be read."""
    try:
        return tuple(dict.fromkeys(read(part.strip()) for part in text.split(",") if part.strip()))
    except SettingError as error:
        raise SettingError(f"{option}: {error}") from None


def _write_documents(file: ProfileFile, directory: Path) -> bool:
    """profile.md, and the pictures where there is anything to draw, of all rows of the file."""
    from qwartet.bench.profile.roofline import NAMES, draw_roofline
    from qwartet.bench.profile.table import markdown
    from qwartet.files import atomic_write

    is_drawn = draw_roofline(file.rows, directory)
    text = markdown(file.facts, file.rows, picture=NAMES[0] if is_drawn else None)
    with atomic_write(directory / DOCUMENT) as path:
        path.write_text(text, encoding="utf-8")
    return is_drawn
