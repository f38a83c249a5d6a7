"""Every published size, Int4, in turns with llama.cpp on this machine: the figures of the README's table.

Ours is what `qwartet bench latency` reports with the default settings. llama.cpp reads a Q4_0 file with a Q6_K head, as
its own quantiser writes by default. A size that does not fit in memory is measured with a few of its layers, at two
depths; every further layer costs what the layers between the two depths cost.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from qwartet import __version__
from qwartet.bench.machine import processor
from qwartet.bench.own_command import own_json
from qwartet.bench.peers.alternation import Speed, take_turns
from qwartet.bench.peers.gguf_file import write_gguf
from qwartet.bench.peers.llama_cpp import run_llama_bench
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.errors import SettingError
from qwartet.kernels.device_memory import available_bytes
from qwartet.models.shapes import SHAPES, Shape, gptq_config

Log = Callable[[str], None]
CONTEXT = 4096  # tokens, of the memory needed
DEPTHS = (4, 12)  # layers that are measured of a size that does not fit
_SHAPES: dict[str, Shape] = dict(SHAPES.items())
SIDES = ("ours", "llama.cpp")


@dataclass(frozen=True)
class SizesSettings:
    """What is measured, and with what."""

    llama_bench: Path
    directory: Path  # where both sides' files are written; each size's files are removed after its runs
    shapes: tuple[str, ...] = tuple(SHAPES)  # published sizes
    threads: int = 2
    rounds: int = 3

    def __post_init__(self) -> None:
        if not self.llama_bench.is_file():
            raise SettingError(f"{self.llama_bench} is not a file; build llama.cpp and pass its llama-bench")
        if unknown := set(self.shapes) - set(SHAPES):
            raise SettingError(f"{min(unknown)!r} is unknown; it must be one of {', '.join(SHAPES)}")
        if self.rounds < 1 or self.threads < 1:
            raise SettingError("rounds and threads must be at least 1")


def measure_sizes(settings: SizesSettings, log: Log = lambda _text: None) -> dict[str, Any]:
    """Runs everything, minutes per size; SettingError when a program fails.

    Returns plain values: date, machine, versions and for each size the speeds of every round, in tokens/s.
    """
    raw: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {**processor(), "threads": settings.threads, "system": platform.platform()},
        "versions": {"qwartet": __version__},
        "sizes": {},
    }
    settings.directory.mkdir(parents=True, exist_ok=True)
    for name in settings.shapes:
        memory = planned_bytes(name)
        depths = (_SHAPES[name].num_layers,) if memory < available_bytes(torch.device("cpu")) else DEPTHS
        shapes = [replace(_SHAPES[name], num_layers=depth) for depth in depths]
        raw["sizes"][name] = {
            "memory_bytes": memory,
            "runs": [_measure(shape, settings, raw["versions"], log) for shape in shapes],
        }
    return raw


def planned_bytes(name: str) -> int:
    """What a size needs in memory for one request, as `qwartet plan` says, which needs no file."""
    total: int = own_json("plan", name, "--context", str(CONTEXT), "--bandwidth", "1")["total_bytes"]
    return total


def _measure(shape: Shape, settings: SizesSettings, versions: dict[str, str], log: Log) -> dict[str, Any]:
    label = f"{shape.name}, {shape.num_layers} layers"
    model, gguf = settings.directory / f"{shape.name}-int4", settings.directory / f"{shape.name}.gguf"
    cache = settings.directory / "cache"

    def latency(*options: str) -> dict[str, Any]:
        threads = ("--threads", str(settings.threads))
        return own_json("bench", "latency", str(model), *threads, *options, environment={"QWARTET_CACHE": str(cache)})

    log(f"{label}: writing both sides' files")
    try:
        write_synthesis(plan_synthesis(shape, gptq_config("int4", None, False)), model)
        write_gguf(gguf, shape, body="q4_0", head="q6_k")
        peaks: list[int] = []

        def ours() -> Speed:
            report = latency()
            peaks.append(report["peak_rss_bytes"])
            return Speed(report["prefill_tok_s"], report["decode_tok_s"])

        def peer() -> Speed:
            run = run_llama_bench(settings.llama_bench, gguf, threads=settings.threads)
            versions["llama.cpp"] = run.build
            return run.speed

        def announce(number: int, side: str) -> None:
            log(f"{label}: round {number + 1} of {settings.rounds}, {side}")

        latency("--prompt", "16", "--generate", "1")  # the first start repacks the weights
        speeds = take_turns({"ours": ours, "llama.cpp": peer}, settings.rounds, announce)
    finally:
        shutil.rmtree(model, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        gguf.unlink(missing_ok=True)
    rounds = {side: [asdict(speed) for speed in runs] for side, runs in speeds.items()}
    return {"layers": shape.num_layers, "peak_rss_bytes": max(peaks), **rounds}


def tokens_per_s(raw: dict[str, Any], name: str, side: str, phase: str) -> float:
    """The median over the rounds of a size's "prefill" or "decode", of "ours" or "llama.cpp".

    Layers that were not measured take the time of those between the two depths.
    """
    runs, layers = raw["sizes"][name]["runs"], _SHAPES[name].num_layers
    seconds: list[float] = [1 / median(speed[f"{phase}_tok_s"] for speed in run[side]) for run in runs]
    if len(runs) == 1:
        return 1 / seconds[0]
    few, more = (int(run["layers"]) for run in runs)
    a_layer = (seconds[1] - seconds[0]) / (more - few)
    return 1 / (seconds[0] + (layers - few) * a_layer)
