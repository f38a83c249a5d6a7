"""Everything in bench/targets.py measured on one machine, alternating with llama.cpp: raw figures of every round.

    qwartet bench report MODEL --llama-bench PATH --batched-bench PATH --gguf FILE --out docs/performance/NAME.json

Each side runs in a process of its own, ours and the peer's one after the other in every round, so that a ratio compares
adjacent runs. Nothing else may run meanwhile.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwartet import __version__
from qwartet.bench.machine import processor
from qwartet.bench.own_command import own_json
from qwartet.bench.peers.llama_cpp import run_batched_bench, run_llama_bench
from qwartet.errors import SettingError

BATCHES = (8, 16)
STARTS = 5
CONTEXT = 8128  # and 64 tokens after it: 8,192
_BATCHES = ("--batch", ",".join(map(str, BATCHES)))
OUR_RUNS = {
    "exact head": ("--head", "exact", *_BATCHES),
    "int8 head": ("--head", "int8", *_BATCHES),
    "exact activations": ("--head", "exact", "--activations", "exact"),
}
Log = Callable[[str], None]


@dataclass(frozen=True)
class ReportSettings:
    """What is measured, and with what."""

    model: Path  # 1.8B shape, Int4
    llama_bench: Path
    batched_bench: Path
    gguf: Path  # the same shape, Q4_0 with an fp16 head
    threads: int = 2
    rounds: int = 3
    shapes: str = "7b,72b"  # of the single linears

    def __post_init__(self) -> None:
        for path in (self.llama_bench, self.batched_bench, self.gguf):
            if not path.is_file():
                raise SettingError(f"{path} is not a file; see qwartet bench peer --help")
        if self.rounds < 1 or self.threads < 1:
            raise SettingError("rounds and threads must be at least 1")


def measure_report(settings: ReportSettings, log: Log = lambda _text: None) -> dict[str, Any]:
    """Runs everything, 15 minutes for three rounds; SettingError if a program fails."""
    raw: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {**processor(), "threads": settings.threads, "system": platform.platform()},
        "versions": {"qwartet": __version__, "llama.cpp": ""},
        "ours": {name: [] for name in OUR_RUNS},
        "llama.cpp": [],
        "llama.cpp batches": [],
        "starts": [],
    }
    _latency(settings, ("--prompt", "16", "--generate", "1"))  # the first start repacks the weights
    for number in range(settings.rounds):
        for name, options in OUR_RUNS.items():
            log(f"round {number + 1} of {settings.rounds}: ours, {name}")
            raw["ours"][name].append(_latency(settings, options))
            if name == "exact head":  # next to the run that most rows compare it with
                log(f"round {number + 1} of {settings.rounds}: llama.cpp")
                run = run_llama_bench(settings.llama_bench, settings.gguf, threads=settings.threads)
                raw["versions"]["llama.cpp"] = run.build
                raw["llama.cpp"].append(asdict(run.speed))
                batches = run_batched_bench(
                    settings.batched_bench, settings.gguf, threads=settings.threads, batch_sizes=BATCHES
                )
                raw["llama.cpp batches"].append({str(batch.num_requests): batch.decode_tok_s for batch in batches})
    log("starts")
    raw["starts"] = [start(settings) for _ in range(STARTS)]
    log(f"{CONTEXT + 64} tokens of context")
    long_context = ("--prompt", "64", "--context", str(CONTEXT), "--kv-cache-dtype", "int8")
    raw["long context"] = [_latency(settings, long_context)]
    log(f"single linears of {settings.shapes}")
    decode = ("--shapes", settings.shapes, "--rows", "1", "--activations", "int8")
    raw["kernels"] = own_json("bench", "kernels", *decode, "--threads", str(settings.threads))
    return raw


def _latency(settings: ReportSettings, options: tuple[str, ...]) -> dict[str, Any]:
    return own_json("bench", "latency", str(settings.model), "--threads", str(settings.threads), *options)


def start(settings: ReportSettings) -> dict[str, float]:
    """Seconds of a start with a weight cache, and of reading the checkpoint right after it."""
    run = _latency(settings, ("--prompt", "16", "--generate", "8"))
    return {
        "load_s": run["load_s"],
        "first_token_s": run["first_token_s"],
        "token_s": 1 / run["decode_tok_s"],
        "read_s": read_seconds(settings.model),
    }


def read_seconds(model: Path) -> float:
    """Seconds to read a checkpoint's weights in pieces of 1 MiB, once they are in the page cache."""
    piece = memoryview(bytearray(2**20))
    for _ in range(2):  # the first read brings them there
        started = time.perf_counter()
        for file in sorted(model.glob("*.safetensors")):
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(piece):
                    pass
    return time.perf_counter() - started
