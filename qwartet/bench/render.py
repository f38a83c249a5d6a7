"""Raw figures of machines -> docs/performance.md. The same figures give the same text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from qwartet.bench.targets import TARGETS, Raw, Target

HEAD = """# Performance on CPUs

The native kernels, compared with llama.cpp and with the machine's own ceilings. `qwartet bench render` makes this file
from the raw figures in `docs/performance/`; a test compares the two. Weights are random, in the published shapes; speed
depends on their values only through the second half of int8 activations, which is used for groups with outliers. Ours
and llama.cpp alternate, in separate processes; a ratio compares two runs of the same round, and the median over the
rounds counts. `limit` is the figure at the read or int8 ceiling of the same runs: no kernel on that machine can exceed
it.
"""
COMMANDS = """
```
qwartet synth 1.8b synth-1.8b --precision int4
qwartet bench peer 1.8b --llama-bench PATH --gguf 1.8b.gguf          # writes llama.cpp's file of the same shape
qwartet bench report synth-1.8b --llama-bench PATH --batched-bench PATH --gguf 1.8b.gguf \\
    --out docs/performance/NAME.json
qwartet bench render
```
"""


def render(directory: Path) -> str:
    """The document for all NAME.json in a directory; NAME.md beside one explains its figures."""
    lines = [HEAD, "To measure a machine:", COMMANDS]
    for file in sorted(directory.glob("*.json")):
        notes = file.with_suffix(".md")
        lines += _machine(json.loads(file.read_text(encoding="utf-8")))
        if notes.is_file():
            lines += ["", notes.read_text(encoding="utf-8").strip()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _machine(raw: Raw) -> Iterator[str]:
    machine, ceilings = raw["machine"], [run["ceilings"] for runs in raw["ours"].values() for run in runs]
    first = raw["ours"]["exact head"][0]
    yield f"## {machine['name']}, {machine['threads']} threads, {_isa(first)}"
    yield ""
    yield (
        f"{raw['date']}; Qwartet {raw['versions']['qwartet']}, llama.cpp {raw['versions']['llama.cpp']}; "
        f"{len(raw['llama.cpp'])} rounds. Ceilings of this machine in the same runs, median and range: memory read "
        f"{_range([c['read_gb_s'] for c in ceilings])} GB/s, int8 {_range([c['int8_gop_s'] for c in ceilings])}, "
        f"bf16 {_range([c['bf16_gop_s'] for c in ceilings])} Gop/s."
    )
    yield ""
    yield "| metric | measured | each round or shape | limit | target | stretch | result |"
    yield "|---|---|---|---|---|---|---|"
    yield from (_row(target, raw) for target in TARGETS)
    yield ""
    yield "| 1.8B shape, Int4 | prefill 512 tok/s | decode tok/s | 8 requests | 16 requests |"
    yield "|---|---|---|---|---|"
    yield from _speeds(raw)
    yield ""
    yield f"Peak memory {first['peak_rss_bytes'] / 2**30:.1f} GiB."
    yield from _kernels(raw["kernels"])


def _isa(run: dict[str, Any]) -> str:
    return str(run["kernels"]["attention"])


def _range(values: list[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _row(target: Target, raw: Raw) -> str:
    value = target.value(raw)
    limits = f"{target.shown(target.wanted)} | {target.shown(target.stretch)}"
    if value is None:
        return f"| {target.what} | not measured | | | {limits} | |"
    most = target.median_room(raw)
    room = "" if most is None else target.shown(most)
    each = ", ".join(map(target.shown, sorted(target.values(raw))))
    return f"| {target.what} | {target.shown(value)} | {each} | {room} | {limits} | {target.verdict(value)} |"


def _kernels(found: dict[str, Any]) -> Iterator[str]:
    """Every operation by itself; nothing if none was measured."""
    if not found["results"]:
        return
    yield ""
    read = f"{found['ceilings']['read_gb_s']:.1f} GB/s"
    yield f"Single operations (`qwartet bench kernels`), in a run with a read ceiling of {read}:"
    yield ""
    yield "| shape | operation | tokens | ms | GB/s | Gop/s | share of ceiling |"
    yield "|---|---|---|---|---|---|---|"
    for result in found["results"]:
        speeds = f"{result['seconds'] * 1e3:.2f} | {result['gb_s']:.1f} | {result['gop_s']:.0f}"
        share = f"{result['share']:.0%} of {result['bound']}"
        yield f"| {result['shape']} | {result['operation']} | {result['rows']} | {speeds} | {share} |"


def _speeds(raw: Raw) -> Iterator[str]:
    for name, runs in raw["ours"].items():
        yield _speed_row(f"ours, {name}", runs, [run["batch_tok_s"] for run in runs])
    yield _speed_row("llama.cpp Q4_0, fp16 head", raw["llama.cpp"], raw["llama.cpp batches"])


def _speed_row(name: str, runs: list[dict[str, Any]], batches: list[dict[str, float]]) -> str:
    speeds = [median(run[phase] for run in runs) for phase in ("prefill_tok_s", "decode_tok_s")]
    speeds += [median(batch[size] for batch in batches) for size in ("8", "16") if all(size in b for b in batches)]
    return f"| {name} | " + " | ".join(f"{speed:.1f}" for speed in speeds) + " |" * (5 - len(speeds))
