"""Short torch operations without OpenMP's threads, which would spin on afterwards and take cores from the kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_OPENMP = ctypes.CDLL(None)  # torch makes its own OpenMP library visible to the whole process
_HAS_OPENMP = hasattr(_OPENMP, "omp_set_num_threads")


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch takes one core in this thread; other threads keep their number, unlike with torch.set_num_threads.

    OpenMP has a number for each thread (omp_set_num_threads sets the ICV nthreads-var of the calling one). Changes
    nothing where torch was built without OpenMP.
    """
    before = torch.get_num_threads()
    take_threads(1)
    try:
        yield
    finally:
        take_threads(before)


def take_threads(count: int) -> None:
    """Has torch take so many threads when this thread asks it for something."""
    if _HAS_OPENMP and torch.get_num_threads() != count:  # the question has torch set its own number first, once
        _OPENMP.omp_set_num_threads(count)
