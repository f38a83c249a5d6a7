"""This machine's ceilings: memory reads on all threads, int8 and bf16 dot products, fp32 arithmetic.

Every benchmark measures its ceilings in the same run, because shared machines drift. The best read rate ever measured
on this machine is kept in the cache directory, so that a slow run can be flagged.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwartet.errors import SettingError
from qwartet.files import cache_directory
from qwartet.kernels.cpu.library import NativeLibrary, native_library, unavailable_reason

READ_BYTES = 2**30
READ_PATTERNS = (0, 1, 2)  # plain, with prefetch, two streams at once
ROUNDS = 3
PEAK_ROUNDS = 4096
LOW_SHARE = 0.9  # of the best rate seen: runs below it are flagged


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of this machine, with the threads that the kernels use."""

    threads: int
    read_gb_s: float  # 1e9 bytes a second, sequential read, best of all loops and rounds
    best_read_gb_s: float  # the best ever seen here
    int8_gop_s: float  # 1e9 operations a second; a multiplication and an addition are two
    bf16_gop_s: float
    fp32_gop_s: float

    @property
    def is_low(self) -> bool:
        """Whether this run reached less than 90 % of the best memory speed of this machine."""
        return self.read_gb_s < LOW_SHARE * self.best_read_gb_s


def required_library() -> NativeLibrary:
    """The native library; SettingError with the reason if there is none."""
    library = native_library()
    if library is None:
        raise SettingError(f"this benchmark measures the native kernels: {unavailable_reason()}")
    return library


def read_speed(library: NativeLibrary, num_bytes: int = READ_BYTES, rounds: int = ROUNDS) -> float:
    """Bytes a second of the best of `rounds` times three read loops over fresh memory."""
    data = np.full(num_bytes, 1, dtype=np.uint8)  # written: otherwise all pages would be one page of zeros
    seconds: float = min(
        library.functions.qw_time_read(data.ctypes.data, num_bytes, pattern)
        for _ in range(rounds)
        for pattern in READ_PATTERNS
    )
    return num_bytes / seconds


def measure_ceilings() -> Ceilings:
    """Takes about three seconds and 1 GiB of memory."""
    library = required_library()
    read = read_speed(library) / 1e9
    peaks = [
        max(library.functions.qw_peak_operations(kind, PEAK_ROUNDS) for _ in range(ROUNDS)) / 1e9 for kind in range(3)
    ]
    return Ceilings(library.num_threads, read, _remember_best(library.num_threads, read), *peaks)


def _machine() -> str:
    name = platform.processor() or platform.machine()
    for line in (
        Path("/proc/cpuinfo").read_text(errors="replace").splitlines() if Path("/proc/cpuinfo").exists() else ()
    ):
        if line.startswith(("model name", "cpu family", "model\t")):
            name += f" {line.partition(':')[2].strip()}"
        if not line:
            break
    return f"{platform.node()} {name}"


def _remember_best(threads: int, read_gb_s: float) -> float:
    """The best read rate of this machine with this number of threads, including this run; kept between runs."""
    path = cache_directory() / "ceilings.json"
    key = f"{_machine()}, {threads} threads"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        best = float(known.get(key, 0.0))
    except (OSError, ValueError, AttributeError, TypeError):
        known, best = {}, 0.0
    if read_gb_s > best:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**known, key: read_gb_s}, indent=1), encoding="utf-8")
        except OSError:
            pass  # only a comparison is lost
    return max(best, read_gb_s)
