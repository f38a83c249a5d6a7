"""Short torch operations without OpenMP's threads, which would spin afterwards and take cores from the kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_OPENMP = ctypes.CDLL(None)  # torch makes its own OpenMP library visible to the whole process
_HAS_OPENMP = hasattr(_OPENMP, "omp_set_num_threads")


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch uses one core in this thread; other threads keep their number, unlike with torch.set_num_threads.

    OpenMP has a number per thread (omp_set_num_threads sets the ICV nthreads-var of the calling one). No effect where
    torch was built without OpenMP.
    """
    before = torch.get_num_threads()
    take_threads(1)
    try:
        yield
    finally:
        take_threads(before)


def take_threads(count: int) -> None:
    """Sets how many threads torch uses for this thread's operations."""
    if _HAS_OPENMP and torch.get_num_threads() != count:  # asking makes torch set its own number first, once
        _OPENMP.omp_set_num_threads(count)
