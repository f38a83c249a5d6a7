"""How far a profile is, on stderr: a line for each row, and on a terminal a bar with the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qwartet.cli.language.catalogue import label
from qwartet.cli.profile.text import row_name
from qwartet.cli.progress import progress_console
from qwartet.cli.terminal import one_line
from qwartet.cli.units import format_seconds

if TYPE_CHECKING:
    from qwartet.bench.profile.row import Row
    from qwartet.bench.profile.run import ProfileEvent


@contextmanager
def profile_progress() -> Iterator[Callable[[ProfileEvent], None]]:
    """A function that takes the events of a profile and shows them."""
    from rich.progress import BarColumn, Progress, TextColumn

    console, redraws = progress_console(soft_wrap=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    bar = Progress(*columns, console=console, disable=not redraws, transient=True)
    task = bar.add_task(label("starting"), total=None)
    total_s = 0.0

    def on_event(event: ProfileEvent) -> None:
        nonlocal total_s
        left = "" if event.left_s is None else f"about {format_seconds(event.left_s)}"
        if event.kind == "planned":
            total_s = event.left_s or 0.0
            console.print(one_line(_planned(event, left)))
            if event.total:
                bar.start()
            return
        assert event.row is not None
        if event.kind in ("preparing", "done") or (event.kind == "started" and not redraws):
            console.print(one_line(_line(event, event.row, left)))
        if event.left_s is not None:
            total_s = max(total_s, event.left_s)
            bar.update(task, total=total_s, completed=total_s - event.left_s)
        place = f"row {event.number} of {event.total}"
        bar.update(task, description=one_line(f"{place}, {left} left" if left else place))

    try:
        yield on_event
    finally:
        bar.stop()


def _planned(event: ProfileEvent, left: str) -> str:
    if not event.total:
        return "nothing to measure: every row is already measured or cannot run"
    rows = f"{event.total} row{'' if event.total == 1 else 's'} to measure"
    return f"{rows}, {left} in total" if left else rows


def _line(event: ProfileEvent, row: Row, left: str) -> str:
    if event.kind == "preparing":
        return f"{row.model}, {row.attention}: loading once to repack the weights"
    place = f"row {event.number} of {event.total}: {row.model}, {row_name(row)}"
    if event.kind == "started":
        return f"{place}; {left} left" if left else place
    speed = row.status if row.tokens_per_s is None else f"{row.tokens_per_s:.2f} tokens/s"
    return f"{place}: {speed}"
