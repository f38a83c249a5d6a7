"""Are the rungs of ladder.cpp correct, and how fast are they?

    python -m kernels_lab.cpu.bench                 all rungs at the shape of up and gate of the 7B model
    python -m kernels_lab.cpu.bench --check         only the comparison with numpy, at a small shape
    python -m kernels_lab.cpu.bench --only GEMM     the rungs whose line contains this word

Compiles ladder.cpp with g++ for this processor: AVX-512 where it has VNNI, else AVX2. Every rung is compared with the
dequantised weight times x in float64. GEMV cycles through 600 MB of weights, far beyond any cache, and is bound by
reading them; GEMM is bound by products. Median of rounds in which all take turns; fixed seed; the last line is JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from ctypes import c_char_p, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("ladder.cpp")
FLAGS = ("-std=c++20", "-O3", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-uninitialized")
AVX2 = ("-Wno-maybe-uninitialized", "-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni")
AVX512_FEATURES = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
GROUP, PANEL = 128, 64
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of 8 activations: those of the low nibbles first
SHAPE = (4096, 11008)  # K, N
SMALL_SHAPE = (384, 192)
ROTATED_BYTES = 600_000_000
FEWEST_COPIES = 3  # of slow rungs: still more than a level-3 cache
ROUNDS = 9
SEED = 0


class Problem(ctypes.Structure):
    """The structure of ladder.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("K", "N", "M")),
        *((name, c_void_p) for name in ("words", "scales", "panels", "x", "codes", "parts", "y")),
        ("ahead", c_int64),
    )


@dataclass(frozen=True)
class Step:
    """One line of the table: a rung of ladder.cpp and how it is run."""

    kind: str  # GEMV or GEMM
    rung: str
    threads: int = 1
    ahead: int = 0  # bytes
    is_slow: bool = False
    computes: bool = True  # or is a ceiling

    @property
    def name(self) -> str:
        ahead = f" {self.ahead // 1024} KB ahead" if self.ahead else ""
        return f"{self.rung}{ahead}" + (f", {self.threads} threads" if self.threads > 1 else "")


PREFETCH = "panels, int8, prefetch"
STEPS = (
    Step("GEMV", "read only", computes=False),
    Step("GEMV", "file, fp32, one output after the other", is_slow=True),
    Step("GEMV", "file, fp32, 64 outputs, scalar", is_slow=True),
    Step("GEMV", "file, fp32, 64 outputs, vectorised", is_slow=True),
    Step("GEMV", "file, int8"),
    Step("GEMV", "panels, int8"),
    *(Step("GEMV", PREFETCH, ahead=1024 * distance) for distance in (1, 2, 4, 8, 16)),
    Step("GEMV", PREFETCH, threads=2, ahead=8192),
    Step("GEMV", "read only", threads=2, computes=False),
    Step("GEMM", "products only", computes=False),
    *(Step("GEMM", f"3x2 {rest}") for rest in ("loops", "unrolled", "pairs", "tied", "tied, buffer")),
    *(Step("GEMM", f"{tile} tied") for tile in ("4x2", "5x2", "6x1", "8x1", "10x1", "12x2", "6x4", "24x1")),
    *(Step("GEMM", f"{tile} tied, buffer") for tile in ("4x2", "5x2", "8x1", "10x1", "12x1", "12x2", "6x4", "24x1")),
)


class Ladder:
    """The compiled rungs."""

    def __init__(self, library: Path) -> None:
        self._functions = ctypes.CDLL(str(library))
        self._functions.rung_name.restype, self._functions.run.restype = c_char_p, c_double
        self._functions.run.argtypes = (c_int, c_void_p, c_int, c_int)
        self.isa = {8: "avx2", 16: "avx512 vnni"}[self._functions.lanes()]
        self._rungs: dict[str, int] = {}
        while name := self._functions.rung_name(len(self._rungs)):
            self._rungs[name.decode()] = len(self._rungs)

    def run(self, step: Step, problems: list[Problem]) -> float:
        """Seconds of the step over every problem, one after the other."""
        for problem in problems:
            problem.ahead = step.ahead
        array = (Problem * len(problems))(*problems)
        return self._functions.run(self._rungs[step.rung], array, len(problems), step.threads)


def compile_ladder(directory: Path, flags: tuple[str, ...]) -> Path:
    """Compiles ladder.cpp into a library there; SystemExit with the compiler's message."""
    compiler, library = shutil.which(os.environ.get("CXX", "g++")), directory / "ladder.so"
    if compiler is None:
        sys.exit("the lab needs g++, or another compiler named in CXX")
    command = [compiler, *FLAGS, *flags, str(SOURCE), "-o", str(library)]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return library


def flags_for_this_processor() -> tuple[str, ...]:
    features = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    if not {"avx2", "fma", "f16c"} <= features:
        sys.exit("the lab needs a processor with AVX2, FMA and F16C")
    return AVX512 if features >= AVX512_FEATURES else AVX2


class Weight:
    """Random codes and scales in both layouts."""

    def __init__(self, K: int, N: int, random: np.random.Generator) -> None:
        G = K // GROUP
        self.words = random.integers(0, 2**32, (K // 8, N), dtype=np.uint32)
        self.scales = random.uniform(0.5, 1.5, (G, N)).astype(np.float16)
        words = self.words.reshape(G, 16, N // PANEL, PANEL).transpose(2, 0, 1, 3).reshape(-1, 16 * PANEL)
        scales = self.scales.reshape(G, N // PANEL, PANEL).transpose(1, 0, 2).reshape(-1, PANEL)
        self.panels = np.concatenate([words.view(np.uint8), np.ascontiguousarray(scales).view(np.uint8)], axis=1)

    def dequantize(self) -> np.ndarray:
        """float64 [K, N]"""
        shifts = 4 * np.arange(8, dtype=np.uint32)[:, None]
        codes = (self.words[:, None, :] >> shifts & 15).reshape(-1, self.words.shape[1])
        return (codes.astype(np.float64) - 8) * np.repeat(self.scales.astype(np.float64), GROUP, axis=0)

    def copies(self, count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """A copy at another address."""
        return [tuple(array.copy() for array in (self.words, self.scales, self.panels)) for _ in range(count)]


class Activations:
    """x [M, K] as floats, and as int8 with a scale for each token and group."""

    def __init__(self, M: int, K: int, random: np.random.Generator) -> None:
        self.x = random.standard_normal((M, K)).astype(np.float32)
        groups = self.x.reshape(M, K // GROUP, GROUP).transpose(1, 0, 2)
        scales = np.abs(groups).max(axis=2) / np.float32(127)
        codes = np.rint(groups / scales[:, :, None])
        self.rounded = (codes * scales[:, :, None]).astype(np.float64).transpose(1, 0, 2).reshape(M, K)
        self.codes = np.take(codes.reshape(*codes.shape[:2], -1, 8), ORDER, axis=-1).astype(np.int8, order="C")
        self.parts = np.empty(scales.shape, dtype=[("scale", np.float32), ("sum", np.int32)])
        self.parts["scale"], self.parts["sum"] = scales, codes.sum(axis=2)


def problem(arrays: tuple[np.ndarray, np.ndarray, np.ndarray], x: Activations, y: np.ndarray) -> Problem:
    """Pointers into arrays that the caller keeps."""
    words, scales, panels = arrays
    M, K = x.x.shape
    data = [array.ctypes.data for array in (words, scales, panels, x.x, x.codes, x.parts, y)]
    return Problem(K, words.shape[1], M, *data, 0)


def error(ladder: Ladder, step: Step, weight: Weight, dense: np.ndarray, x: Activations) -> float:
    """|y - reference| / |reference|; integer rungs are compared with the rounded activations."""
    y = np.full((x.x.shape[0], dense.shape[1]), np.nan, dtype=np.float32)
    ladder.run(step, [problem((weight.words, weight.scales, weight.panels), x, y)])
    reference = (x.x.astype(np.float64) if "fp32" in step.rung else x.rounded) @ dense
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


def check(ladder: Ladder, steps: list[Step], weight: Weight, x: dict[int, Activations]) -> bool:
    """Prints the error of every step; whether all are within 1e-5: fp32 sums of a few thousand products."""
    dense, all_right = weight.dequantize(), True
    for step in steps:
        if step.computes:
            found = max(error(ladder, step, weight, dense, x[M]) for M in x if (M == 1) == (step.kind == "GEMV"))
            all_right &= found < 1e-5
            print(f"{step.kind} {step.name:48} {found:.1e} {'right' if found < 1e-5 else 'WRONG'}")
    return all_right


def measure(ladder: Ladder, steps: list[Step], weight: Weight, x: dict[int, Activations]) -> list[dict[str, object]]:
    """Prints and returns a row for every step. They take turns, so that all see the same machine."""
    K, N = weight.dequantize().shape
    copies = weight.copies(max(FEWEST_COPIES, ROTATED_BYTES // weight.panels.nbytes))
    runs: list[tuple[Step, int, list[Problem], np.ndarray]] = []  # keeps the results alive: problems only point to them
    for step in steps:
        for M, tokens in x.items():
            if (M == 1) == (step.kind == "GEMV"):
                y = np.empty((M, N), dtype=np.float32)
                count = 1 if M > 64 else FEWEST_COPIES if step.is_slow or M > 1 else len(copies)
                runs.append((step, M, [problem(arrays, tokens, y) for arrays in copies[:count]], y))
    times: list[list[float]] = [[] for _ in runs]
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
        for (step, _, problems, _), found in zip(runs, times, strict=True):
            if not (step.is_slow and number):
                found.append(ladder.run(step, problems) / len(problems))
    rows: list[dict[str, object]] = []
    for (step, M, _, _), found in zip(runs, times, strict=True):
        seconds = sorted(found)[len(found) // 2]
        ms, rate = 1e3 * seconds, (weight.panels.nbytes if M == 1 else 2 * K * N * M) / seconds / 1e9
        rows.append({"kind": step.kind, "step": step.name, "M": M, "ms": round(ms, 3), "rate": round(rate, 1)})
        print(f"{step.kind} M={M:<4} {step.name:46} {ms:9.2f} ms {rate:7.1f} {'GB/s' if M == 1 else 'Gop/s'}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare with numpy at a small shape")
    parser.add_argument("--only", default="", help="run only the rungs whose line contains this word")
    options = parser.parse_args()
    steps = [step for step in STEPS if options.only in f"{step.kind} {step.name}"]
    with tempfile.TemporaryDirectory() as directory:
        ladder = Ladder(compile_ladder(Path(directory), flags_for_this_processor()))
    random = np.random.default_rng(SEED)
    (K, N), tokens = SMALL_SHAPE if options.check else SHAPE, (1, 7, 24) if options.check else (1, 8, 512)
    weight, x = Weight(K, N, random), {M: Activations(M, K, random) for M in tokens}
    if options.check:
        return 0 if check(ladder, steps, weight, x) else 1
    rows = measure(ladder, steps, weight, x)
    print(json.dumps({"isa": ladder.isa, "K": K, "N": N, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
