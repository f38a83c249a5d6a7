"""Runs a Python module with native libraries that watch themselves: AddressSanitizer and UBSan.

    python -m tests.kernels.sanitized pytest tests/kernels           (make sanitize)

The first read or write outside of its memory, or the first undefined operation, ends the process with a report of
where it was. Scratch buffers are allocated anew for every use and to the byte (thread_pool.cpp), so overruns of them
are seen, too; so are those of the tensors and of Python's own objects, which come from the watched malloc.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

from qwartet.kernels.cpu import build as native_build
from qwartet.kernels.cpu import library as native

DIRECTORY = Path(__file__).resolve().parents[2] / "build" / "sanitized"
FLAGS = (
    *("-O1", "-g1", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    *("-D_GLIBCXX_ASSERTIONS", "-DQWARTET_EXACT_SCRATCH"),
)
OPTIONS = {
    # Python itself leaves memory behind at its end. Not detect_stack_use_after_return: GCC 12 puts variables that are
    # aligned to 64 bytes where only 32 are certain, and AVX-512 then faults.
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "PYTHONMALLOC": "malloc",  # small objects from malloc as well: Python's own pools are not watched
}


def build_if_needed() -> None:
    """Builds the libraries for this processor, unless they are there with these sources and flags."""
    isas = native.supported_isas()
    wanted = " ".join([native_build.source_hash(), *isas, *FLAGS])
    stamp = DIRECTORY / "built_from"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        print(f"building {', '.join(isas)} with the sanitizers (some minutes)", file=sys.stderr, flush=True)
        native_build.build(FLAGS, DIRECTORY, isas)
        stamp.write_text(wanted, encoding="utf-8")


def runtime() -> str:
    """The library that has to be in a process before all others; RuntimeError where the compiler has none."""
    command = [native_build.compiler() or "c++", "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        raise RuntimeError(f"{command[0]} has no libasan.so; set CXX to a g++ that has")
    return found


def main() -> None:
    """Command line: see the docstring of this file."""
    if sys.argv[1] != "--inside":
        build_if_needed()
        environment = {**os.environ, **OPTIONS, "LD_PRELOAD": runtime()}
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.kernels.sanitized", "--inside", *sys.argv[1:]], environment
        )
    native_build.LIBRARIES = DIRECTORY
    library = native.native_library()
    assert library is not None and library.path.parent == DIRECTORY, native.unavailable_reason()
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
