"""Ours against llama.cpp on random weights of a published size, on this machine's CPU.

    qwartet bench peer 1.8b --llama-bench PATH [--batched-bench PATH] [--ours COMMAND] ...

`--ours` is a command whose last line of output is one JSON object with prefill_tok_s and decode_tok_s; without it only
the peer is measured. llama-bench reads a prompt of 512 tokens, and decodes 64 tokens from an empty context. Nothing
else may run meanwhile: llama.cpp's threads wait for each other by spinning, and next to another program lose most of
their speed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwartet.bench.peers.alternation import Speed, measure_command, median_speed, paired_ratios, take_turns
from qwartet.bench.peers.gguf_file import BodyType, HeadType, gguf_name, read_gguf_name, write_gguf
from qwartet.bench.peers.llama_cpp import BatchSpeed, LlamaBenchRun, run_batched_bench, run_llama_bench
from qwartet.errors import SettingError
from qwartet.models.shapes import Shape

SEED = 0


@dataclass(frozen=True)
class PeerSettings:
    """What is measured, and with what."""

    shape: Shape
    llama_bench: Path
    batched_bench: Path | None = None
    ours: str | None = None  # a command line
    threads: int = 2
    rounds: int = 3
    body: BodyType = "q4_0"
    head: HeadType = "f16"
    gguf: Path | None = None  # written if it does not exist; None: a temporary file

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("rounds", self.rounds), ("layers", self.shape.num_layers)):
            if value < 1:
                raise SettingError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class PeerReport:
    """The results. Speeds are in tokens a second; a ratio above 1 means that ours is faster."""

    settings: PeerSettings
    model: str  # as the GGUF file describes itself
    model_bytes: int
    build: str  # of llama.cpp
    speeds: dict[str, list[Speed]]  # "peer"; also "ours" and "ratio" if there is a command of ours
    batches: list[BatchSpeed]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        settings = {
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.settings).items()
        }
        return {
            "settings": {**settings, "shape": self.settings.shape.name, "layers": self.settings.shape.num_layers},
            "model": self.model,
            "model_bytes": self.model_bytes,
            "build": self.build,
            "rounds": {side: [asdict(speed) for speed in speeds] for side, speeds in self.speeds.items()},
            "median": {side: asdict(median_speed(speeds)) for side, speeds in self.speeds.items()},
            "batches": [asdict(batch) for batch in self.batches],
        }


def measure_peer(settings: PeerSettings, log: Callable[[str], None] = lambda _text: None) -> PeerReport:
    """Runs everything; `log` is called at the start of each part. SettingError for a wrong program or file."""
    for program in filter(None, (settings.llama_bench, settings.batched_bench)):
        if not program.is_file():
            raise SettingError(f"{program} is not a file; build llama.cpp and pass the path of the program")
    runs: list[LlamaBenchRun] = []
    with _model_file(settings, log) as path:

        def measure_llama_cpp() -> Speed:
            runs.append(run_llama_bench(settings.llama_bench, path, threads=settings.threads))
            return runs[-1].speed

        def announce(number: int, side: str) -> None:
            log(f"round {number + 1} of {settings.rounds}: {settings.ours if side == 'ours' else 'llama-bench'}")

        ours = {} if settings.ours is None else {"ours": partial(measure_command, settings.ours)}
        speeds = take_turns({**ours, "peer": measure_llama_cpp}, settings.rounds, announce)
        batches: list[BatchSpeed] = []
        if settings.batched_bench is not None:
            log("llama-batched-bench")
            batches = run_batched_bench(settings.batched_bench, path, threads=settings.threads)
    if ours:
        speeds["ratio"] = paired_ratios(speeds["ours"], speeds["peer"])
    return PeerReport(settings, _name(settings), runs[0].model_bytes, runs[0].build, speeds, batches)


def _name(settings: PeerSettings) -> str:
    return gguf_name(settings.shape, settings.body, settings.head, SEED)


@contextmanager
def _model_file(settings: PeerSettings, log: Callable[[str], None]) -> Iterator[Path]:
    """The GGUF file: an existing one or a new one; a temporary one if no name is set."""
    with tempfile.TemporaryDirectory() as temporary:
        path = settings.gguf or Path(temporary, "model.gguf")
        if not path.exists():
            log(f"writing {path}")
            write_gguf(path, settings.shape, body=settings.body, head=settings.head, seed=SEED)
        elif (found := read_gguf_name(path)) != _name(settings):
            raise SettingError(f"{path} holds {found!r}, not {_name(settings)!r}; remove it, or choose another file")
        yield path


def report_lines(report: PeerReport) -> Iterator[str]:
    """The report as a table: a line for each round, then the medians, then the batches."""
    threads = f"{report.settings.threads} thread{'s' if report.settings.threads > 1 else ''}"
    yield f"llama.cpp {report.build}, {threads}: {report.model}; {report.model_bytes / 1e9:.2f} GB"
    sides = list(report.speeds)
    columns = [f"{phase} {side}" for phase in ("prefill", "decode") for side in sides]
    yield " ".join(["round ", *(f"{column:>14}" for column in columns)])
    rows = [(str(number), speeds) for number, speeds in enumerate(zip(*report.speeds.values(), strict=True), start=1)]
    rows.append(("median", tuple(median_speed(speeds) for speeds in report.speeds.values())))
    for label, speeds in rows:
        values = [speed.prefill_tok_s for speed in speeds] + [speed.decode_tok_s for speed in speeds]
        yield " ".join([f"{label:<6}", *(f"{value:14.2f}" for value in values)])
    for batch in report.batches:
        yield f"{batch.num_requests:>2} requests at once: decode {batch.decode_tok_s:.2f} tok/s in total"
