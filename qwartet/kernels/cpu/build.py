"""Compiles csrc/ into one shared library for each instruction set; needs a C++20 compiler and nothing else.

    python -m qwartet.kernels.cpu.build          (`pip install` does the same)

No torch headers and no build system: a library depends only on the C++ runtime. The libraries are in kernels/cpu/lib.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).with_name("csrc")
LIBRARIES = Path(__file__).with_name("lib")

BASE_FLAGS = (
    *("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    "-ffp-contract=off",  # products and sums are fused only where the source says so
    *("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),  # GCC 12's own intrinsics trigger these
)
# Best last. A library runs where the processor has all of its features (names from /proc/cpuinfo).
ISA_FLAGS: dict[str, tuple[str, ...]] = {
    "scalar": (),
    "avx2": ("-DQWARTET_ISA_AVX2", "-mavx2", "-mfma", "-mf16c"),
    "avx512": (
        *("-DQWARTET_ISA_AVX512", "-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
        *("-mavx512vnni", "-mavx512bf16"),
    ),
}
ISA_FEATURES: dict[str, frozenset[str]] = {
    "scalar": frozenset(),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "avx512": frozenset(
        {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "avx2", "fma", "f16c"}
    ),
}


def source_files() -> list[Path]:
    """Every C++ file, headers too, in a fixed order."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".cpp", ".h"))


def source_hash() -> str:
    """The hash that a library built from these sources reports; empty where the sources are not installed."""
    if not SOURCES.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def library_path(isa: str) -> Path:
    """The path of an instruction set's library."""
    return LIBRARIES / f"libqwartet_cpu_{isa}.so"


def compiler() -> str | None:
    """The C++ compiler: $CXX, else the first of c++, g++, clang++ that exists; None if there is none."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((found for name in candidates if (found := shutil.which(name))), None)


def targets() -> list[str]:
    """Instruction sets to build for this processor family."""
    return list(ISA_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ["scalar"]


def build(extra_flags: tuple[str, ...] = (), directory: Path = LIBRARIES, isas: list[str] | None = None) -> list[Path]:
    """Builds every library, or those of `isas`, into `directory`; raises RuntimeError with the compiler's output.

    A library is replaced atomically.
    """
    program = compiler()
    if program is None:
        raise RuntimeError("no C++ compiler found; install one (Debian: apt-get install g++) and install Qwartet again")
    directory.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(lambda isa: _build_one(program, isa, extra_flags, directory), isas or targets()))


def _build_one(program: str, isa: str, extra_flags: tuple[str, ...], directory: Path) -> Path:
    target = directory / library_path(isa).name
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    units = [str(path) for path in source_files() if path.suffix == ".cpp"]
    stamp = f'-DQWARTET_SOURCE_HASH="{source_hash()}"'
    command = [program, *BASE_FLAGS, *ISA_FLAGS[isa], *extra_flags, stamp, *units, "-o", str(temporary)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if result.returncode:
            raise RuntimeError(f"{program} failed for {isa}:\n{result.stderr[-4000:]}")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    try:
        print("\n".join(str(path) for path in build()))
    except RuntimeError as error:
        sys.exit(str(error))
