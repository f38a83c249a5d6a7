"""Progress of long work, in bytes or items: a bar on a terminal that can redraw it, otherwise a line for each tenth;
always on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.terminal import direct
from qwartet.cli.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


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

    class Bar(Progress):
        """Takes the count when it is drawn: many items may be done between two frames."""

        def get_renderables(self) -> Iterable[RenderableType]:
            for task in self.task_ids:
                self.update(task, completed=num_done, total=total)
            return super().get_renderables()

    console, redraws = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    num_done, total = 0, 0
    progress = Bar(*columns, TimeRemainingColumn(), console=console, disable=not redraws)
    progress.add_task(doing)

    def on_done(done: int, of: int) -> None:
        nonlocal num_done, total
        before, num_done, total = num_done, done, of
        progress.start()
        if not redraws and of and before * 10 // of < done * 10 // of:
            console.print(f"{doing}: {done:,} / {of:,}")

    try:
        yield on_done
    finally:
        progress.stop()
