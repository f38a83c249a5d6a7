"""Which exceptions say that memory ran out? Python, torch and native code each have their own."""

from __future__ import annotations

import re

import torch

from qwartet.errors import OutOfMemoryError

# torch raises a plain RuntimeError where its allocator of main memory gets none (c10/core/impl/alloc_cpu.cpp).
_CPU_ALLOCATOR = re.compile(r"(not enough memory|can't allocate memory): you tried to allocate \d+ bytes")


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, and nothing else."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR.search(str(error)) is not None


def in_our_words(error: Exception, what: str) -> Exception:
    """An OutOfMemoryError that says what was being done, where memory ran out; else the error itself."""
    if isinstance(error, OutOfMemoryError) or not is_memory_error(error):
        return error
    ours = OutOfMemoryError(f"memory ran out while {what}; free some, or ask for less at once")
    ours.__cause__ = error.with_traceback(None)  # whose frames hold what took the memory
    return ours
