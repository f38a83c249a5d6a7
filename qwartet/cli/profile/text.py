"""A profile as lines of text: the table, and what there is to say of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.language.columns import padded, right_aligned, width_of

if TYPE_CHECKING:
    from qwartet.bench.profile.row import Row

_HEADINGS = (  # of the columns of bench/profile/table.py
    "model", "precision", "attention", "device", "KV cache", "context", "generated", "tokens/s", "published",
    "TTFT s", "TPOT ms", "decode/s", "of limit", "memory", "planned",
)  # fmt: skip
_NUM_NAMES = 5  # columns that stand on the left
_PUBLISHED = _HEADINGS.index("published")
_LEFT_OUT = {_HEADINGS.index("device")}  # the same in all rows


def profile_lines(rows: Sequence[Row], out: Path | None = None, *, is_drawn: bool = False) -> Iterator[str]:
    """The table, then reasons and remarks, in the user's language; GiB for memory."""
    from qwartet.bench.profile.table import NONE

    lines = [list(map(label, _HEADINGS)), *(_cells(row) for row in rows)]
    left_out = _LEFT_OUT | ({0} if len({row.model for row in rows}) == 1 else set())
    empty = {at for at in range(len(_HEADINGS)) if all(line[at] == NONE for line in lines[1:])}
    kept = [at for at in range(len(_HEADINGS)) if at not in left_out | empty]
    widths = [max(width_of(line[at]) for line in lines) for at in kept]
    for line in lines:
        texts = (
            padded(line[at], width) if at < _NUM_NAMES else right_aligned(line[at], width)
            for at, width in zip(kept, widths, strict=True)
        )
        yield "  ".join(texts).rstrip()
    yield ""
    yield from map(translate, _remarks(rows))
    if out is not None:
        drawn = ", roofline.svg, roofline.png" if is_drawn else ""
        yield translate(f"{out}: profile.json, profile.md{drawn} written")


def _cells(row: Row) -> list[str]:
    from qwartet.bench.profile.table import NONE, cells

    texts = cells(row)
    texts[_PUBLISHED] = next((f"{run.tokens_per_s:.2f}" for run in row.published if run.engine == "transformers"), NONE)
    return [*texts[:_NUM_NAMES], *(translate(label(text)) for text in texts[_NUM_NAMES:])]


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    measured = [row for row in rows if row.measured is not None]
    if measured:
        yield (
            "tokens/s: generated tokens over total time, including prefill, as on the card; decode/s: after the "
            "first token; of limit: decode speed relative to the memory bandwidth limit"
        )
    if any(run.engine == "transformers" for row in rows for run in row.published):
        yield "published: on A100-80G GPUs with Transformers and FlashAttention 2"
    for row in rows:
        if row.reason is not None:
            yield f"{row_name(row)}: {row.status}: {row.reason}"
    if any(row.status == "does not fit" for row in rows):
        yield "--force measures rows that do not fit; --kv-cache-dtype int8 or a shorter context needs less memory"
    ceilings = [row.ceilings for row in measured if row.ceilings is not None]
    if ceilings:
        low, high = min(one.read_gb_s for one in ceilings), max(one.read_gb_s for one in ceilings)
        yield f"memory read speed before each row: {low:.1f} to {high:.1f} GB/s with {ceilings[0].threads} threads"
    if any(one.is_low for one in ceilings):
        best = max(one.best_read_gb_s for one in ceilings)
        yield f"memory was read at {best:.1f} GB/s on this machine before: something else is using it"
    for text in dict.fromkeys(text for row in measured if row.measured is not None for text in row.measured.warnings):
        yield f"warning: {text}"


def row_name(row: Row) -> str:
    """What tells a row from others of its model."""
    tokens = f"{row.context:,} token{'' if row.context == 1 else 's'}"
    return f"{row.precision}, {row.attention}, {row.kv_cache_dtype} KV cache, {tokens} of context"
