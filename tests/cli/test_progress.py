"""Progress of many items: the bar ends with the last count, and a file gets a line for each tenth."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qwartet.cli import progress
from qwartet.cli.progress import item_progress


def shown(monkeypatch: pytest.MonkeyPatch, *, redraws: bool, counts: range, of: int) -> str:
    written = io.StringIO()
    console = Console(file=written, force_terminal=redraws, width=80, color_system=None)
    monkeypatch.setattr(progress, "progress_console", lambda: (console, redraws))
    with item_progress("mmlu") as on_done:
        for count in counts:
            on_done(count, of)
    return written.getvalue()


def test_the_bar_ends_with_the_last_count_however_fast_items_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, redraws=True, counts=range(501), of=500)
    assert "  0/500" in text and "500/500" in text[text.rindex("mmlu") :]


def test_a_file_gets_a_line_for_each_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, redraws=False, counts=range(501), of=500)
    assert text.splitlines() == [f"mmlu: {count} / 500" for count in range(50, 501, 50)]


@pytest.mark.parametrize("redraws", [True, False])
def test_nothing_is_shown_before_the_first_count(monkeypatch: pytest.MonkeyPatch, redraws: bool) -> None:
    assert "mmlu" not in shown(monkeypatch, redraws=redraws, counts=range(0), of=500)
