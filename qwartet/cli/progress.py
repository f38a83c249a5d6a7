"""Progress of long work, in bytes or items: a bar on a terminal that can redraw it, otherwise a line for each tenth;
always on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.terminal import direct
from qwartet.cli.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console


def progress_console(**settings: Any) -> tuple[Console, bool]:
    """A console on stderr, and whether it can redraw a bar: not a pipe, and not a dumb terminal either."""
    from rich.console import Console

    console = Console(file=direct(sys.stderr), markup=False, highlight=False, **settings)
    return console, console.is_terminal and not console.is_dumb_terminal


@contextmanager
def byte_progress(doing: str, done: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (bytes done since its last call, total bytes); nothing is shown before its first call.

    `doing` and `done` name the work: "writing", "written". A new total starts a new bar.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console, redraws = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=console, disable=not redraws)
    num_done, of = 0, 0
    task = progress.add_task(label(doing), visible=False)

    def on_bytes(count: int, total: int) -> None:
        nonlocal num_done, of
        if total != of:
            num_done, of = 0, total
            progress.start()
            progress.reset(task, total=total, visible=True)
        before, num_done = num_done, num_done + count
        progress.update(task, completed=num_done)
        if not redraws and before * 10 // total < num_done * 10 // total:
            console.print(translate(f"{format_bytes(num_done)} of {format_bytes(total)} {done}"))

    try:
        yield on_bytes
    finally:
        progress.stop()


@contextmanager
def item_progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (items done, total items), such as the questions of a task."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console, redraws = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=console, disable=not redraws)
    task = progress.add_task(doing, visible=False)
    before = 0

    def on_done(done: int, of: int) -> None:
        nonlocal before
        progress.start()
        progress.update(task, completed=done, total=of, visible=True)
        if not redraws and of and before * 10 // of < done * 10 // of:
            console.print(f"{doing}: {done:,} / {of:,}")
        before = done

    try:
        yield on_done
    finally:
        progress.stop()
