"""The picture of a needle run: context length across, depth down, from red (never found) to green (always)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from qwartet.errors import SettingError

# The first of these that is installed; DejaVu Sans comes with matplotlib and has no Chinese.
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Serif CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Noto Sans CJK JP", "Droid Sans Fallback",
)  # fmt: skip
_WORDS = {
    "en": ("Needle in a haystack", "Context length (tokens)", "Depth of the needle (%)", "found (%)"),
    "zh": ("大海捞针", "上下文长度（token）", "针的深度（%）", "找到（%）"),
}
_COLOURS = ("#d7191c", "#fdae61", "#ffffbf", "#a6d96a", "#1a9641")
_MOST_NUMBERS = 200  # cells, above which no per cents are written into them


def require_matplotlib() -> None:
    """SettingError where pictures cannot be drawn; checked before a run, since they are drawn after it."""
    if find_spec("matplotlib") is None:
        raise SettingError("the needle's heat map needs matplotlib; install it: pip install 'qwartet[evaluate]'")


def heat_map(
    shares: Mapping[tuple[int, int], float], lengths: Sequence[int], depths: Sequence[int], language: str
) -> dict[str, bytes]:
    """needle.png and needle.svg of the shares found by (length, depth), from 0 to 1; the same bytes each time.

    A cell without a share stays white. Words are Chinese for "zh" if a font with Chinese is installed.
    """
    import matplotlib as mpl
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    chinese = next((name for name in CHINESE_FONTS if name in installed), None)
    words = _WORDS["zh" if language == "zh" and chinese else "en"]
    settings: Any = {
        "font.family": ["DejaVu Sans", *([chinese] if chinese else [])],
        "svg.hashsalt": "qwartet",  # ids of an SVG are random without it
        "svg.fonttype": "path",
    }
    with mpl.rc_context(settings):
        figure = _figure(shares, lengths, depths, words)
        files = {}
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=150, metadata=metadata)
            files[f"needle.{kind}"] = content.getvalue()
    return files


def _figure(
    shares: Mapping[tuple[int, int], float], lengths: Sequence[int], depths: Sequence[int], words: Sequence[str]
) -> Any:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    title, across, down, scale = words
    columns, rows = len(lengths), len(depths)
    figure = Figure(figsize=(min(2.6 + 0.75 * columns, 16), min(1.8 + 0.42 * rows, 12)), layout="constrained")
    axes = figure.add_subplot()
    cells = [[100 * shares.get((length, depth), float("nan")) for length in lengths] for depth in depths]
    colours = LinearSegmentedColormap.from_list("found", _COLOURS)
    mesh = axes.pcolormesh(cells, cmap=colours, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    if columns * rows <= _MOST_NUMBERS:
        for y, row in enumerate(cells):
            for x, value in enumerate(row):
                if value == value:  # not NaN
                    axes.text(x + 0.5, y + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xticks([x + 0.5 for x in range(columns)], [short(length) for length in lengths])
    axes.set_yticks([y + 0.5 for y in range(rows)], [str(depth) for depth in depths])
    axes.tick_params(length=0)
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    figure.colorbar(mesh, label=scale, ticks=range(0, 101, 20))
    return figure


def short(length: int) -> str:
    """A length as the card writes it: 4K for 4,096 tokens, others in full."""
    return f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}"
