"""A bar chart as SVG text, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _TOP = 760, 150, 52
_BAR, _GAP, _GROUP_GAP = 18, 4, 16
_PLOT = 380  # pixels of the longest bar; the rest is for its text
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 } .group { font-weight: 600 } .small { fill: #59636e }
  .bar0 { fill: #4f46e5 } .bar1 { fill: #0d9488 } .reference { stroke: #59636e; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 } .bar0 { fill: #818cf8 } .bar1 { fill: #2dd4bf }
    .reference { stroke: #9198a1 }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One value, its name on the left and its text at the end."""

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class BarGroup:
    """Bars that belong together, under one name."""

    name: str
    bars: tuple[Bar, ...]


def bar_chart(title: str, groups: Sequence[BarGroup], reference: float) -> str:
    """A horizontal bar chart from 0, with a dashed line at `reference`. ValueError without a value above 0."""
    longest = max((bar.value for group in groups for bar in group.bars), default=0.0)
    if longest <= 0:
        raise ValueError("a chart needs a value above 0")
    scale = _PLOT / max(longest, reference)
    height = _TOP + sum(len(group.bars) * (_BAR + _GAP) + _GROUP_GAP for group in groups)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
        *_bars(groups, scale),
        f'<line class="reference" x1="{_LEFT + reference * scale:.1f}" x2="{_LEFT + reference * scale:.1f}" '
        f'y1="{_TOP - 10}" y2="{height - _GROUP_GAP}"/>',
        f'<text class="small" x="{_LEFT + reference * scale + 4:.1f}" y="{_TOP - 4}">{reference:g}x</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bars(groups: Sequence[BarGroup], scale: float) -> Iterator[str]:
    y = _TOP
    for group in groups:
        yield f'<text class="group" x="12" y="{y + _BAR - 4}">{escape(group.name)}</text>'
        for number, bar in enumerate(group.bars):
            end = _LEFT + bar.value * scale
            middle = y + _BAR - 4
            yield f'<text class="small" x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(bar.name)}</text>'
            yield (
                f'<rect class="bar{number % 2}" x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR}" rx="2"/>'
            )
            yield f'<text x="{end + 8:.1f}" y="{middle}">{escape(bar.text)}</text>'
            y += _BAR + _GAP
        y += _GROUP_GAP
