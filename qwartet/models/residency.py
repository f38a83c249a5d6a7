"""Do the weights fit in memory, and if not, which of them stay there?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from qwartet.checkpoint.held_tensors import HeldTensor
from qwartet.errors import OutOfMemoryError, is_out_of_memory
from qwartet.files import disk_read_speed
from qwartet.kernels.device_memory import available_bytes
from qwartet.layers.weight_stream import WeightStream

RESIDENT_FRACTION = 0.5  # of the free memory


def weights_bytes(held: Iterable[HeldTensor]) -> int:
    """Bytes of the loaded weights."""
    return sum(tensor.nbytes for tensor in held)


def fits_memory(needed: int, device: torch.device) -> bool:
    """Whether weights of `needed` bytes can stay in memory."""
    return needed <= available_bytes(device)


def resident_budget(device: torch.device) -> int:
    """Bytes for the weights that stay in memory where not all fit; the rest is for the KV cache."""
    return int(available_bytes(device) * RESIDENT_FRACTION)


def memory_error(directory: Path, needed: int, device: torch.device) -> OutOfMemoryError:
    """The error for weights of `needed` bytes, with the needed and the free memory."""
    return OutOfMemoryError(
        f"{directory}: the weights need {needed / 2**30:.2f} GiB, but only {available_bytes(device) / 2**30:.2f} GiB "
        f"are free on {device}; use a smaller or more quantised checkpoint, or force the load (--force), which may swap"
    )


@contextmanager
def told_of_memory() -> Iterator[None]:
    """Turns failed allocations in numpy, torch and the system into OutOfMemoryError."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "use a smaller or more quantised checkpoint, or raise the memory or address space limit (ulimit -v)"
        detail = str(error).partition("\n")[0][:200] or "no figures"
        raise OutOfMemoryError(f"out of memory while loading the model ({detail}); {hint}") from error


def stream_forecast(stream: WeightStream, path: Path) -> str:
    """The cost of reading weights from disk for every token, for a warning."""
    speed, streamed = disk_read_speed(path), stream.streamed_bytes
    forecast = f"{streamed / 2**30:.1f} GiB are read from disk for every token, or for every chunk of a prompt"
    if speed is not None:
        forecast += f"; at this disk's {speed / 1e9:.2f} GB/s that takes {streamed / speed:.1f} s"
    resident = f"{stream.num_resident} of {stream.num_layers} layers stay there"
    return f"the weights do not fit in memory: {resident}, {forecast}"
