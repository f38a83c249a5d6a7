"""Are the weights plausible: finite, and without zeros where a download stopped?

Loading checks small tensors completely and one page every STRIDE of the others, so that no large file is read twice; a
suspicious tensor is then checked completely. `qwartet inspect` checks every byte.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.safetensors_file import TensorInfo
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, CheckpointWarning

SMALL_BYTES = 2**20  # tensors up to this size are checked completely
STRIDE = 16 * 2**20  # bytes from one sample of a larger one to the next
PAGE = 4096  # bytes of a sample
PIECE = 16 * 2**20  # bytes in memory at once
LONG_RUN = 2**20  # bytes of zeros that no trained weights have
MANY_ROWS = 1024  # of an embedding

_LEAVES = ("weight", "qweight", "scales", "bias")
# Integers of a float's size, and the bits of its exponent, which are all set in NaN and infinity.
_EXPONENTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F800000),
}

Read = Callable[[int, int], bytes]
"""(first byte of a tensor's data, number of bytes) -> bytes."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with the values of one tensor."""

    info: TensorInfo
    num_not_finite: int = 0
    num_values: int = 0
    zeros: tuple[int, int] | None = None  # bytes from and to which there are only zeros
    is_padding: bool = False  # concerns only rows that belong to no token

    @property
    def zeros_text(self) -> str:
        """Where the zeros are, in percent of the tensor."""
        assert self.zeros is not None
        start, end = (round(100 * place / self.info.nbytes) for place in self.zeros)
        return f"{self.info.name} ({'all of it' if (start, end) == (0, 100) else f'{start} % to {end} %'})"

    def error(self) -> CheckpointError:
        """The error for values that are not finite."""
        reason = f"{self.num_not_finite} of {self.num_values} values are NaN or infinite"
        return CheckpointError(self.info.file, reason, tensor=self.info.name, hint="download it again")


def check_values(checkpoint: Checkpoint, layout: Layout) -> None:
    """CheckpointError for a weight that is not finite, CheckpointWarning for zeros where weights should be."""
    findings = list(value_findings(checkpoint, layout, whole=False))
    warn_of(findings, checkpoint.directory)
    for finding in findings:
        if finding.num_not_finite and not finding.is_padding:
            raise finding.error()


def check_unused_biases(checkpoint: Checkpoint, layout: Layout) -> None:
    """CheckpointError for a bias that is not zero on a linear that has none in this network.

    AutoGPTQ gives every linear a bias; loading leaves out those of zeros.
    """
    for module in layout:
        for name in module.disk_names("bias") if module.kind == "linear" and not module.allows_bias else ():
            if name in checkpoint and bool(checkpoint.read(name).any()):
                reason = "is not zero, but linears of this kind have no bias in this family"
                hint = "config.json belongs to another model"
                raise CheckpointError(checkpoint.info(name).file, reason, tensor=name, hint=hint)


def warn_of(findings: list[Finding], directory: Path) -> None:
    """One warning for all zeros, and one for all rows of no token that are not finite."""
    zeros = [finding.zeros_text for finding in findings if finding.zeros is not None]
    if zeros:
        message = (
            f"{directory}: zeros where weights should be: {_listed(zeros)}; the download may be incomplete: "
            "fetch the file again (qwartet inspect checks every byte)"
        )
        warnings.warn(message, CheckpointWarning, stacklevel=3)
    padding = [finding.info.name for finding in findings if finding.num_not_finite and finding.is_padding]
    if padding:
        message = f"{directory}: NaN or infinite values in the last rows (unused or rare tokens): {_listed(padding)}"
        warnings.warn(message, CheckpointWarning, stacklevel=3)


def _listed(texts: list[str]) -> str:
    return ", ".join(texts[:10]) + (f" and {len(texts) - 10} more" if len(texts) > 10 else "")


def value_findings(checkpoint: Checkpoint, layout: Layout, *, whole: bool) -> Iterator[Finding]:
    """What is wrong with the values of all tensors that the layout names; `whole` reads all of them."""
    with ExitStack() as files:
        readers: dict[Path, Callable[[TensorInfo], Read]] = {}
        for module in layout:
            for name in (name for leaf in _LEAVES for name in module.disk_names(leaf) if name in checkpoint):
                info = checkpoint.info(name)
                if info.file not in readers:
                    readers[info.file] = _reader(info.file, files, whole)
                read = readers[info.file](info)
                if info.nbytes and (whole or info.nbytes <= SMALL_BYTES or _is_suspicious(read, info, module)):
                    yield from _look(read, info, module)


def _reader(file: Path, files: ExitStack, whole: bool) -> Callable[[TensorInfo], Read]:
    """Reads around the mapping, which would load many pages for each one that is checked."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
        files.callback(os.close, descriptor)
        if not whole and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        data = 8 + int.from_bytes(os.pread(descriptor, 8, 0), "little")
    except OSError as error:
        raise CheckpointError(file, f"cannot be read ({error.strerror})") from None

    def reader(info: TensorInfo) -> Read:
        def read(start: int, count: int) -> bytes:
            try:
                content = os.pread(descriptor, count, data + info.begin + start)
            except OSError as error:
                raise CheckpointError(file, f"cannot be read ({error.strerror})", tensor=info.name) from None
            if len(content) != count:
                raise CheckpointError(file, "changed while it was being read", tensor=info.name)
            return content

        return read

    return reader


def _is_suspicious(read: Read, info: TensorInfo, module: ModuleSpec) -> bool:
    """Whether a sample contains only zeros or a value that is not finite."""
    most = info.nbytes - PAGE
    end = _padding_start(info) if module.kind in ("embedding", "head") else info.nbytes
    for start in (*range(0, most, STRIDE), most // 2 // PAGE * PAGE, most):
        content = read(start, PAGE)
        if (start < end and not any(content)) or _count_not_finite(content, info.dtype):
            return True
    return False


def _count_not_finite(content: bytes, dtype: str) -> int:
    if dtype not in _EXPONENTS:
        return 0
    kind, exponent = _EXPONENTS[dtype]
    bits = np.frombuffer(content, kind) & kind(exponent)
    return int((bits == exponent).sum()) if bits.max() == exponent else 0


def _look(read: Read, info: TensorInfo, module: ModuleSpec) -> Iterator[Finding]:
    """Checks a complete tensor."""
    num_bad, num_bad_padding, padding = 0, 0, info.nbytes
    if module.kind in ("embedding", "head"):
        padding = _padding_start(info)
    page = min(max(info.nbytes // 16 // 8 * 8, 8), PAGE)
    is_zero = np.zeros(-(-info.nbytes // page), np.bool_)
    for start in range(0, info.nbytes, piece := PIECE // page * page):
        content = read(start, min(piece, info.nbytes - start))
        inside = max(min(padding - start, len(content)), 0)
        num_bad += _count_not_finite(content[:inside], info.dtype) if inside else 0
        num_bad_padding += _count_not_finite(content[inside:], info.dtype) if inside < len(content) else 0
        filled = np.frombuffer(content.ljust(-(-len(content) // page) * page, b"\0"), np.uint64)
        pages = filled.reshape(-1, page // 8)
        is_zero[start // page : start // page + len(pages)] = ~pages.any(1)
    num_values = info.nbytes // np.dtype(_EXPONENTS[info.dtype][0]).itemsize if info.dtype in _EXPONENTS else 0
    for count, is_padding in ((num_bad, False), (num_bad_padding, True)):
        if count:
            yield Finding(info, count, num_values, is_padding=is_padding)
    if info.name.endswith(".bias"):  # a linear without a bias may store zeros
        return
    start, end = (place * page for place in _longest_run(is_zero))
    is_padding = padding < info.nbytes and start >= padding
    if end - start >= _least_run(info, module, page) and not is_padding:
        yield Finding(info, zeros=(start, min(end, info.nbytes)))


def _padding_start(info: TensorInfo) -> int:
    """The byte from which rows of an embedding [V, C] may belong to no token: their values are arbitrary."""
    rows = info.shape[0]
    return (rows - min(max(MANY_ROWS, rows // 16), rows // 2)) * (info.nbytes // rows)


def _least_run(info: TensorInfo, module: ModuleSpec, page: int) -> int:
    """The shortest run of zeros to report, in bytes; shorter ones are pruned inputs, outputs or tokens."""
    if module.kind == "norm":
        return info.nbytes // 2
    if module.kind in ("embedding", "head"):
        rows = MANY_ROWS * info.nbytes // info.shape[0]
        return min(max(LONG_RUN, rows), max(info.nbytes // 2, page))
    return min(LONG_RUN, max(info.nbytes // 8, page))


def _longest_run(is_zero: NDArray[np.bool_]) -> tuple[int, int]:
    """Where the longest run of true begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_zero, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    longest = int((edges[1::2] - edges[::2]).argmax())
    return int(edges[2 * longest]), int(edges[2 * longest + 1])
