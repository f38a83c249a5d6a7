"""A roofline: each row's arithmetic rate, in prefill and in decoding, against what the machine allows.

    operations/s <= min(bandwidth * operations for each byte, arithmetic peak)

A point on the slope is bound by memory, one under the flat part by arithmetic. matplotlib draws it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from qwartet.bench.ceilings import Ceilings
from qwartet.bench.profile.row import Row
from qwartet.bench.profile.table import PRECISIONS
from qwartet.files import atomic_write

NAMES = ("roofline.svg", "roofline.png")
_PEAKS = {"int8": "int8_gop_s", "bf16": "bf16_gop_s", "fp32": "fp32_gop_s"}
_COLOURS = ("#4f46e5", "#0d9488", "#d97706", "#be185d", "#0369a1", "#65a30d", "#7c3aed", "#b91c1c")
_GREY = "#59636e"
_SAME = 1.3  # times: peaks that are closer have one line
_MARKERS = {"prefill": "^", "decode": "o"}
_STYLE: Any = {"svg.hashsalt": "qwartet", "font.family": "DejaVu Sans", "font.size": 9.0}  # the same file every time


@dataclass(frozen=True)
class Point:
    """One phase of a row."""

    series: str  # rows that differ in their context alone
    phase: str  # "prefill" or "decode"
    context: int
    intensity: float  # operations for each byte
    gop_s: float


def points(rows: Sequence[Row]) -> list[Point]:
    """The points of all measured rows."""
    return [point for row in rows for point in _points(row, _series(row, rows))]


def _points(row: Row, series: str) -> Iterator[Point]:
    if row.measured is None or row.forecast is None:
        return
    prefill, decode = row.forecast.prefill, row.forecast.decode
    yield Point(series, "prefill", row.context, prefill.intensity, prefill.gop_s(row.measured.first_token_s))
    if row.token_s is not None:
        yield Point(series, "decode", row.context, decode.intensity, decode.gop_s(row.token_s))


def _series(row: Row, rows: Sequence[Row]) -> str:
    """What tells a row from those of other series: only what differs."""
    parts = {
        "model": row.model,
        "precision": PRECISIONS.get(row.precision, row.precision),
        "attention": row.attention,
        "kv_cache_dtype": f"{row.kv_cache_dtype} KV cache",
        "generate": f"{row.generate:,} generated",
    }
    varied = [text for name, text in parts.items() if len({getattr(one, name) for one in rows}) > 1]
    return ", ".join(varied or [parts["precision"]])


def roofs(rows: Sequence[Row]) -> Ceilings | None:
    """The best of the ceilings that were measured beside the rows; None where none were."""
    found = [row.ceilings for row in rows if row.ceilings is not None]
    if not found:
        return None
    names = ("read_gb_s", "best_read_gb_s", *_PEAKS.values())
    return Ceilings(found[0].threads, **{name: max(getattr(one, name) for one in found) for name in names})


def draw_roofline(rows: Sequence[Row], directory: Path) -> bool:
    """Writes roofline.svg and roofline.png; false where no row was measured beside its ceilings.

    The same rows give the same files. ImportError without matplotlib.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ceilings, drawn = roofs(rows), points(rows)
    if ceilings is None or not drawn:
        return False
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        _draw(figure.add_subplot(), ceilings, drawn)
        for name, metadata in zip(NAMES, ({"Date": None}, {"Software": None}), strict=True):
            with atomic_write(directory / name) as path:
                figure.savefig(path, format=name.rpartition(".")[2], dpi=160, metadata=metadata)
    return True


def _draw(axes: Any, ceilings: Ceilings, drawn: Sequence[Point]) -> None:
    peaks = _named_peaks(ceilings)
    read, top = ceilings.read_gb_s, max(peaks.values())
    left = min(point.intensity for point in drawn) / 2
    right = max(8 * top / read, *(2 * point.intensity for point in drawn))
    lowest = min(left * read, *(point.gop_s for point in drawn))
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(lowest / 2, 2 * top))
    axes.set(title=f"Roofline, CPU with {ceilings.threads} threads")
    axes.set(xlabel="operations for each byte read", ylabel="Gop/s")
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    roof = {"color": _GREY, "linewidth": 1.2}
    axes.plot([left, top / read], [left * read, top], **roof)
    middle = (left * top / read) ** 0.5
    _write(axes, f"memory {read:.1f} GB/s", middle, middle * read, ha="right", va="bottom")
    for name, peak in peaks.items():
        axes.plot([peak / read, right], [peak, peak], **roof)
        _write(axes, f"{name} {peak:,.0f} Gop/s", peak / read, peak, ha="left", va="top")
    colours = dict(zip(dict.fromkeys(point.series for point in drawn), cycle(_COLOURS), strict=False))
    for point in drawn:
        colour, place = colours[point.series], (point.intensity, point.gop_s)
        axes.scatter(*place, color=colour, marker=_MARKERS[point.phase], s=34, zorder=3)
        axes.annotate(
            f"{point.context:,}", place, xytext=(6, 0) if point.phase == "prefill" else (-6, 0), va="center",
            ha="left" if point.phase == "prefill" else "right", textcoords="offset points", fontsize=7, color=colour,
        )  # fmt: skip
    for text, colour in colours.items():
        axes.scatter([], [], color=colour, marker="s", label=text)
    for phase, marker in _MARKERS.items():
        axes.scatter([], [], color=_GREY, marker=marker, label=phase)
    title = "numbers: tokens of context"
    axes.figure.legend(loc="outside lower center", ncols=min(4, len(colours) + 2), frameon=False, title=title)


def _named_peaks(ceilings: Ceilings) -> dict[str, float]:
    """The arithmetic peaks, lowest first; those that one line stands for have one name."""
    merged: dict[str, float] = {}
    for peak, name in sorted((getattr(ceilings, field), name) for name, field in _PEAKS.items()):
        last = next(reversed(merged), None)
        if last is not None and peak < _SAME * merged[last]:
            name = f"{last}, {name}"
            del merged[last]
        merged[name] = peak
    return merged


def _write(axes: Any, text: str, x: float, y: float, *, ha: str, va: str) -> None:
    """Writes beside a point of a roof."""
    offset = (-4 if ha == "right" else 4, 3 if va == "bottom" else -4)
    axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", ha=ha, va=va, color=_GREY)
