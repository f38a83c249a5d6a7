"""Weights that do not fit in memory: mapped from disk, fetched ahead of the layer that uses them, dropped after it.

    layers   0 ... R-1    stay in memory
             R ... L-1    in memory from a fetch (two layers ahead, wrapping to the next step) until their use

Left to itself the system would keep the pages read last, which are needed last: it would read everything for every
token. Source of the advice: Linux, madvise(2).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor, nn

AHEAD = 2  # layers
_POPULATE_READ = 22  # Linux 5.14: read the pages now
_PAGEOUT = 21  # Linux 5.4: give the pages back now
Range = tuple[int, int]
"""Address and bytes."""

Advise = Callable[[int, int, int], None]
"""Address, bytes, advice."""


def _libc_advise(address: int, num_bytes: int, advice: int) -> None:
    """madvise over whole pages. Advice that an old kernel does not know is skipped: its own heuristics must do."""
    page = mmap.PAGESIZE
    start = address // page * page
    length = -(-(address + num_bytes - start) // page) * page
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if madvise(start, length, advice) and advice == _POPULATE_READ:
        madvise(start, length, mmap.MADV_WILLNEED)


def ranges_of(tensors: Sequence[Tensor]) -> list[Range]:
    """The address ranges of tensors, with neighbours joined."""
    joined: list[Range] = []
    for start, size in sorted((tensor.data_ptr(), tensor.nbytes) for tensor in tensors):
        if joined and start - sum(joined[-1]) <= mmap.PAGESIZE:
            joined[-1] = (joined[-1][0], start + size - joined[-1][0])
        else:
            joined.append((start, size))
    return joined


class WeightStream:
    """Reads the weights of layers into memory in the order of their use, step after step."""

    def __init__(self, layers: Sequence[Sequence[Tensor]], resident_bytes: int, advise: Advise = _libc_advise) -> None:
        """`layers`: the mapped tensors of each layer. The first layers, up to `resident_bytes`, stay in memory."""
        self._layers = [list(tensors) for tensors in layers]  # keeps the mappings alive
        self._ranges = [ranges_of(tensors) for tensors in self._layers]
        self._advise = advise
        sizes = [sum(size for _, size in ranges) for ranges in self._ranges]
        self.num_resident = next(
            (layer for layer in range(len(sizes) + 1) if sum(sizes[: layer + 1]) > resident_bytes), len(sizes)
        )
        self.num_layers = len(sizes)
        self.resident_bytes = sum(sizes[: self.num_resident])
        self.streamed_bytes = sum(sizes[self.num_resident :])
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qwartet-weights")
        self._fetches: dict[int, Future[None]] = {}

    def _fetch(self, layer: int) -> None:
        for address, size in self._ranges[layer]:
            self._advise(address, size, _POPULATE_READ)

    def spans(self) -> list[tuple[int, int]]:
        """First and end of the layers to run in one call: the resident ones together, the others one by one."""
        streamed = [(layer, layer + 1) for layer in range(self.num_resident, self.num_layers)]
        return [(0, self.num_resident), *streamed] if self.num_resident else streamed

    def before(self, layer: int) -> None:
        """Waits until a layer is in memory, and starts fetching the next ones."""
        if self.num_resident == self.num_layers:
            return
        num_streamed = self.num_layers - self.num_resident
        first = max(layer, self.num_resident) - self.num_resident
        ahead = min(AHEAD, num_streamed - 1)
        for place in range(first, first + ahead + 1):
            wanted = self.num_resident + place % num_streamed
            if wanted not in self._fetches:
                self._fetches[wanted] = self._reader.submit(self._fetch, wanted)
        if layer >= self.num_resident:
            self._fetches[layer].result()

    def after(self, layer: int) -> None:
        """Releases the memory of a streamed layer."""
        if layer < self.num_resident:
            return
        self._fetches.pop(layer, None)
        for address, size in self._ranges[layer]:
            self._advise(address, size, _PAGEOUT)


class StreamedLayers(nn.ModuleList):
    """The blocks of a network whose weights are not all in memory: iterating over them loads each in turn."""

    def __init__(self, layers: nn.ModuleList, stream: WeightStream) -> None:
        super().__init__(layers.children())
        self.stream = stream

    def __iter__(self) -> Iterator[nn.Module]:
        for index, layer in enumerate(self.children()):
            self.stream.before(index)
            yield layer
            self.stream.after(index)
