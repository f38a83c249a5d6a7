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
    before = torch.get_num_threads()  # of this thread; also has torch set its own number first, which it does once
    if _HAS_OPENMP:
        _OPENMP.omp_set_num_threads(1)
    try:
        yield
    finally:
        if _HAS_OPENMP:
            _OPENMP.omp_set_num_threads(before)
