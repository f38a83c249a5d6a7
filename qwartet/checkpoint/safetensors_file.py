"""One .safetensors file: its header parsed strictly, its tensors memory-mapped or read.

    8 bytes   header length h, little endian
    h bytes   JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}
    the rest  the tensors, row-major, without gaps

The header is checked here, before any tensor is touched, because the messages must name the file, the
tensor and the remedy, and because the library accepts a header that names one tensor twice. The data
itself goes through the safetensors library, which checks again.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwartet.checkpoint.directory import cannot_read, has_file
from qwartet.checkpoint.json_file import is_deep
from qwartet.errors import CheckpointError, OutOfMemoryError, SettingError

LoadMode = Literal["mmap", "pread"]

MAX_HEADER_BYTES = 16 * 2**20  # the format allows 100 MB; a model of 1,024 layers has 4 MB
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16, "BF16": torch.bfloat16,
    "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32, "U64": torch.uint64, "I64": torch.int64,
    "F64": torch.float64,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap has no name for it before Python 3.13
_DOWNLOAD_AGAIN = "the download may be incomplete: fetch this file again"


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about one tensor; `begin` and `end` are bytes within the data part."""

    name: str
    dtype: str  # "BF16", "F16", "I32", ...
    shape: tuple[int, ...]
    begin: int
    end: int
    file: Path

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"key {shown(key)} appears twice")
        unique[key] = value
    return unique


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def shown(value: Any) -> str:
    """A name or value from a file, for a message: one short line without control characters."""
    text = value if isinstance(value, str) and value and value.isprintable() else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _sniff(head: bytes) -> str:
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return "looks like a PyTorch pickle, which Qwartet never loads; convert it to safetensors"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "looks like a web page; fetch the file again"
    return _DOWNLOAD_AGAIN


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header's entries and the size of the data part in bytes."""
    if not has_file(path):
        raise CheckpointError(path, "file is missing", hint=_DOWNLOAD_AGAIN)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
            if size < 8:
                raise CheckpointError(path, f"file is {size} bytes; not a safetensors file", hint=_sniff(head))
            length = int.from_bytes(head[:8], "little")
            if length > min(MAX_HEADER_BYTES, size - 8):
                hint = _sniff(head)
                raise CheckpointError(path, f"header claims {length} bytes in a file of {size}", hint=hint)
            file.seek(8)
            text = file.read(length).decode("utf-8")
            header = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except OSError as error:
        raise cannot_read(path, error) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"header is not valid ({error})", hint=_sniff(head)) from None
    if not isinstance(header, dict) or is_deep(header):
        raise CheckpointError(path, "header is not a JSON object", hint=_DOWNLOAD_AGAIN)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(path, "__metadata__ in the header is not an object of strings", hint=_DOWNLOAD_AGAIN)
    return header, size - 8 - length


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _parse_entry(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict):
        raise CheckpointError(path, "header entry is not an object", tensor=shown(name))
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(path, f"dtype {shown(dtype)} is unknown", tensor=shown(name))
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise CheckpointError(path, f"shape {shown(shape)} is not a list of sizes", tensor=shown(name))
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise CheckpointError(path, f"data_offsets {shown(offsets)} are not two offsets", tensor=shown(name))
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != expected:
        reason = f"data_offsets {offsets} span {offsets[1] - offsets[0]} bytes; {dtype} {shape} needs {expected}"
        raise CheckpointError(path, reason, tensor=shown(name))
    return TensorInfo(name, dtype, tuple(shape), offsets[0], offsets[1], path)


def read_tensor_infos(path: Path) -> dict[str, TensorInfo]:
    """Checked header of a file: name -> TensorInfo; CheckpointError for an inconsistent file."""
    header, data_bytes = _read_header(path)
    infos = {name: _parse_entry(path, name, entry) for name, entry in header.items()}
    position = 0
    for info in sorted(infos.values(), key=lambda info: (info.begin, info.end)):
        if info.begin != position:
            reason = f"data begins at byte {info.begin}, but the previous tensor ends at {position}"
            raise CheckpointError(path, reason, tensor=shown(info.name), hint=_DOWNLOAD_AGAIN)
        position = info.end
    if position != data_bytes:
        reason = f"holds {data_bytes} bytes of tensors; its header describes {position}"
        raise CheckpointError(path, reason, hint=_DOWNLOAD_AGAIN)
    return infos


class SafetensorsFile:
    """Reads tensors of one file whose header has been checked.

    "mmap" shares the pages of the file and copies nothing; "pread" reads into private memory, and so
    survives a file that shrinks while the model is in use. Both reject a file that changed before it was read.
    """

    def __init__(self, path: Path, load_mode: LoadMode = "mmap") -> None:
        if load_mode not in ("mmap", "pread"):
            raise SettingError(f"load_mode is {load_mode!r}; it must be mmap or pread")
        self.path, self._load_mode = path, load_mode
        self._pages: MappedFile | None = None
        try:
            self._size = path.stat().st_size
            self._file = safe_open(path, framework="pt", device="cpu", backend=load_mode)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(path, f"cannot be opened ({error})", hint=_DOWNLOAD_AGAIN) from None
        except RuntimeError as error:  # torch's mapping reserves memory for all pages, which the system may refuse
            if load_mode != "mmap" or "mmap" not in str(error):
                raise
            self._pages = self._map()

    def _map(self) -> MappedFile:
        """The file mapped without that reservation; pages that are written to become private, as with torch."""
        try:
            return MappedFile(self.path, is_writable=True)
        except OSError as error:
            reason = f"{self.path}: its {self._size} bytes cannot be mapped ({error.strerror})"
            raise OutOfMemoryError(f"{reason}; raise the limit on address space (ulimit -v)") from None

    def read(self, info: TensorInfo, part: tuple[slice, ...] = ()) -> Tensor:
        """The tensor, or a part of it, on the CPU, in the file's dtype."""
        try:
            if (size := self.path.stat().st_size) != self._size:
                raise CheckpointError(self.path, f"changed from {self._size} to {size} bytes while it was being read")
            if part and self._load_mode == "pread":
                return self._read_rows(info, part[0])[(slice(None), *part[1:])]
            whole: Tensor = self._file.get_tensor(info.name) if self._pages is None else self._pages.read(info)
            shape = tuple(whole.shape)
            tensor = whole[part] if part else whole
        except (OSError, SafetensorError) as error:
            raise CheckpointError(self.path, f"cannot be read ({error})", tensor=info.name) from None
        if shape != info.shape:
            raise CheckpointError(self.path, "changed while it was being read", tensor=info.name)
        # After a header of odd length the data is unaligned, which kernels cannot read.
        return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor

    def _read_rows(self, info: TensorInfo, rows: slice) -> Tensor:
        """Rows one after another, read into their tensor; the library would read the whole tensor for a part of it."""
        start, stop, _ = rows.indices(info.shape[0])
        tensor = torch.empty(max(stop - start, 0), *info.shape[1:], dtype=DTYPES[info.dtype])
        rest = tensor.reshape(-1).view(torch.uint8).numpy().data
        with self.path.open("rb", buffering=0) as file:
            data = 8 + int.from_bytes(file.read(8), "little")
            file.seek(data + info.begin + start * (info.nbytes // info.shape[0]))
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise CheckpointError(self.path, "changed while it was being read", tensor=info.name)
                rest = rest[count:]
        return tensor


class MappedFile:
    """A file whose header has been checked (`read_tensor_infos`).

    Writing to one of its tensors crashes the process or, if it `is_writable`, changes a private copy of the page.
    """

    def __init__(self, path: Path, *, is_writable: bool = False) -> None:
        """OSError when it cannot be mapped."""
        self.path = path
        flags, protection = mmap.MAP_SHARED, mmap.PROT_READ
        if is_writable:
            flags, protection = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        with path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, flags=flags, prot=protection)
        self._data = 8 + int.from_bytes(self._pages[:8], "little")

    def read(self, info: TensorInfo) -> Tensor:
        """The tensor in place, not copied."""
        dtype = DTYPES[info.dtype]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            flat = torch.frombuffer(
                self._pages, dtype=dtype, count=info.nbytes // dtype.itemsize, offset=self._data + info.begin
            )
        return flat.view(info.shape)
