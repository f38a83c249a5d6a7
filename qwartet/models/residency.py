"""Do the weights fit the memory, and which of them stay there where not all do?"""

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
    """Bytes of the weights once loaded."""
    return sum(tensor.nbytes for tensor in held)


def fits_memory(needed: int, device: torch.device) -> bool:
    """Whether weights of `needed` bytes can stay in memory."""
    return needed <= available_bytes(device)


def resident_budget(device: torch.device) -> int:
    """Bytes for the weights that stay in memory where not all can; the KV cache takes from the rest."""
    return int(available_bytes(device) * RESIDENT_FRACTION)


def memory_error(directory: Path, needed: int, device: torch.device) -> OutOfMemoryError:
    """Says what weights of `needed` bytes lack, with the two figures."""
    return OutOfMemoryError(
        f"{directory}: the weights take {needed / 2**30:.2f} GiB and {available_bytes(device) / 2**30:.2f} GiB are "
        f"free on {device}; use a smaller or more quantised checkpoint, or force the load (--force), which may swap"
    )


@contextmanager
def told_of_memory() -> Iterator[None]:
    """Turns the errors of numpy, torch and the system for memory that cannot be had into OutOfMemoryError."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "use a smaller or more quantised checkpoint, or raise the limit of memory or address space (ulimit -v)"
        detail = str(error).partition("\n")[0][:200] or "no figures"
        raise OutOfMemoryError(f"memory ended while the model was loaded ({detail}); {hint}") from error


def stream_forecast(stream: WeightStream, path: Path) -> str:
    """What reading weights from disk for every token comes to, for a warning."""
    speed, streamed = disk_read_speed(path), stream.streamed_bytes
    forecast = f"{streamed / 2**30:.1f} GiB are read from disk for every token, or for every chunk of a prompt"
    if speed is not None:
        forecast += f"; at the {speed / 1e9:.2f} GB/s of this disk that takes {streamed / speed:.1f} s"
    resident = f"{stream.num_resident} of {stream.num_layers} layers stay there"
    return f"the weights do not fit the memory: {resident}, {forecast}"
