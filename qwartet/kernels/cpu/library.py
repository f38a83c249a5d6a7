"""Finds and loads the native library for this processor; the ctypes mirror of csrc/c_api.cpp.

The best instruction set of the processor is used; QWARTET_CPU_ISA selects a lower one. A library that cannot be
loaded is never silent: `unavailable_reason` says why, and start-up prints it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from ctypes import c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qwartet.errors import SettingError
from qwartet.kernels.cpu.build import ISA_FEATURES, library_path, source_hash

ISA_VARIABLE = "QWARTET_CPU_ISA"
NO_LIBRARY = "none"  # a value of QWARTET_CPU_ISA: run without a library, as if there were no compiler

_STATUS = {1: "sizes or indices are inconsistent", 2: "out of memory"}


class PackedWeight(ctypes.Structure):
    """csrc/quantized_linear.h"""

    _fields_ = (
        *(("panels", c_void_p), ("bias", c_void_p), ("order", c_void_p), ("num_inputs", c_int64)),
        *(("num_outputs", c_int64), ("bits", c_int32), ("unit", c_int32), ("has_zeros", c_int32)),
    )


class DenseWeight(ctypes.Structure):
    """csrc/dense_linear.h"""

    _fields_ = (("rows", c_void_p), ("bias", c_void_p), ("num_inputs", c_int64), ("num_outputs", c_int64))


class Linear(ctypes.Structure):
    """csrc/decoder_layer.h"""

    _fields_ = (("packed", PackedWeight), ("dense", DenseWeight), ("is_packed", c_int32))


class HeadNorms(ctypes.Structure):
    """csrc/elementwise.h"""

    _fields_ = (("query", c_void_p), ("key", c_void_p), ("eps", c_float))


class Layer(ctypes.Structure):
    """csrc/decoder_layer.h"""

    _fields_ = (
        *(("attention_norm", c_void_p), ("mlp_norm", c_void_p), ("head_norms", HeadNorms), ("qkv", Linear)),
        *(
            ("output", Linear),
            ("up", Linear),
            ("gate", Linear),
            ("down", Linear),
            ("eps", c_float),
            ("num_heads", c_int32),
            ("hidden_size", c_int64),
        ),
        ("intermediate_size", c_int64),
    )


class Rotation(ctypes.Structure):
    """csrc/elementwise.h"""

    _fields_ = (
        *(("cos", c_void_p), ("sin", c_void_p), ("rope_index", c_void_p), ("query_scale", c_void_p)),
        *(("slot_mapping", c_void_p), ("rotary_dim", c_int32)),
    )


class CacheLayer(ctypes.Structure):
    """csrc/cache_layer.h"""

    _fields_ = (
        *(("keys", c_void_p), ("values", c_void_p), ("key_scales", c_void_p), ("value_scales", c_void_p)),
        *(("num_blocks", c_int64), ("num_kv_heads", c_int32), ("block_size", c_int32), ("head_dim", c_int32)),
        ("bits", c_int32),
    )


class AttentionBatch(ctypes.Structure):
    """csrc/attention.h"""

    _fields_ = (
        *(("block_table", c_void_p), ("seq_lens", c_void_p), ("cu_seqlens", c_void_p), ("num_requests", c_int64)),
        ("max_blocks", c_int64),
    )


class Head(ctypes.Structure):
    """csrc/head.h"""

    _fields_ = (("packed", PackedWeight), ("error_norms", c_void_p), ("row_norms", c_void_p), ("exact", DenseWeight))


class StepShape(ctypes.Structure):
    """csrc/decoder_layer.h"""

    SHARED_FIELDS = (  # with kernels/backend.py
        *("hidden_size", "intermediate_size", "vocab_size", "num_tokens", "num_rows", "context"),
        *("num_heads", "num_kv_heads", "head_dim", "num_threads", "adapter_rank"),
    )
    _fields_ = (
        *((name, c_int64) for name in SHARED_FIELDS[:6]),
        *((name, c_int32) for name in ("num_heads", "num_kv_heads", "head_dim", "bits", "unit", "act_order")),
        *(("has_packed_head", c_int32), ("num_threads", c_int32), ("adapter_rank", c_int64)),
    )


class LowRank(ctypes.Structure):
    """csrc/low_rank.h"""

    _fields_ = (("a", c_void_p), ("b", c_void_p), ("rank", c_int64), ("scale", c_float))


class LayerAdapters(ctypes.Structure):
    """csrc/low_rank.h"""

    _fields_ = tuple((name, c_void_p) for name in ("qkv", "output", "up", "gate", "down"))


_STRUCTURES = (
    *(PackedWeight, DenseWeight, Linear, Layer, Rotation, CacheLayer, AttentionBatch, Head, StepShape, LowRank),
    *(LayerAdapters, HeadNorms),
)

_POINTER, _INT, _LONG = c_void_p, c_int32, c_int64
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "qw_num_threads": (_INT, ()),
    "qw_set_num_threads": (_INT, (_INT,)),
    "qw_panels_bytes": (_LONG, (_POINTER,)),
    "qw_pack_gptq": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _POINTER)),
    "qw_pack_dense": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    "qw_linear": (_INT, (_POINTER, _POINTER, _LONG, _INT, _POINTER, _INT, _POINTER, _LONG, _POINTER)),
    "qw_linear_gradient": (_INT, (_POINTER, _POINTER, _INT, _LONG, _POINTER, _INT)),
    "qw_dense_linear_many": (_INT, (_POINTER, _POINTER, _LONG, _POINTER)),
    "qw_embed": (_INT, (_POINTER, _POINTER, _LONG, _LONG, _LONG, _POINTER)),
    "qw_rms_norm": (_INT, (_POINTER, _POINTER, c_float, _LONG, _LONG, _POINTER)),
    "qw_silu_mul": (_INT, (_POINTER, _POINTER, _LONG, _POINTER)),
    "qw_rotate_and_store": (_INT, (_POINTER, _LONG, _INT, _POINTER, _POINTER, _LONG, _POINTER)),
    "qw_paged_attention": (_INT, (_POINTER, _LONG, _LONG, _INT, _POINTER, _POINTER, _POINTER)),
    "qw_decoder_layers": (
        _INT,
        (_POINTER, _POINTER, _LONG, _POINTER, _LONG, _LONG, _POINTER, _LONG, _POINTER, _INT, _POINTER, _LONG, _POINTER),
    ),
    "qw_head_argmax": (_INT, (_POINTER, _POINTER, _LONG, _LONG, _POINTER, _POINTER)),
    "qw_product": (
        _INT,
        (*(_POINTER, _LONG, _LONG) * 2, *(_LONG,) * 3, c_float, c_float, _POINTER, _LONG, _INT),
    ),
    "qw_inverse_factor": (_INT, (_POINTER, _LONG, _POINTER)),
    "qw_round_rows": (_INT, (_POINTER, _LONG, _LONG, _POINTER, _LONG, _POINTER, _POINTER, _INT, _POINTER)),
    "qw_search_scale": (_INT, (_POINTER, _LONG, _LONG, _POINTER, _POINTER, _LONG, _INT, _POINTER, _POINTER)),
    "qw_step_bytes": (None, (_POINTER, _POINTER, _POINTER)),
    "qw_scratch_held": (_LONG, ()),
    "qw_time_read": (c_double, (_POINTER, _LONG, _INT)),
    "qw_peak_operations": (c_double, (_INT, _LONG)),
}


@dataclass(frozen=True)
class NativeLibrary:
    """A loaded library; `call` runs one of its functions and raises on a bad status."""

    isa: str
    path: Path
    functions: ctypes.CDLL

    def call(self, name: str, *arguments: Any) -> None:
        """Runs a function that returns a status. A bad argument is our own bug: user input is checked earlier."""
        status = getattr(self.functions, name)(*arguments)
        if status == 2:
            raise MemoryError(f"{name}: out of memory")
        assert status == 0, f"{name}: {_STATUS.get(status, status)}"

    @property
    def num_threads(self) -> int:
        return int(self.functions.qw_num_threads())

    def set_num_threads(self, count: int) -> None:
        """Threads of all operations from now on; SettingError outside 1..256."""
        if not 1 <= count <= 256:
            raise SettingError(f"threads is {count}; it must be between 1 and 256")
        self.call("qw_set_num_threads", count)


@cache
def cpu_features() -> frozenset[str]:
    """Instruction set extensions of this processor, by their names in /proc/cpuinfo."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def supported_isas() -> list[str]:
    """Our instruction sets that this processor supports, best first."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["scalar"]
    return [isa for isa in reversed(ISA_FEATURES) if ISA_FEATURES[isa] <= cpu_features()]


def wanted_isas() -> tuple[str, ...]:
    """The same, or the one that QWARTET_CPU_ISA names; SettingError if this processor does not support it."""
    supported, wanted = supported_isas(), os.environ.get(ISA_VARIABLE)
    if not wanted:
        return tuple(supported)
    if wanted == NO_LIBRARY:
        return ()
    if wanted not in supported:
        raise SettingError(f"{ISA_VARIABLE} is {wanted!r}; on this CPU use {', '.join([*supported, NO_LIBRARY])}")
    return (wanted,)


def _open(isa: str) -> NativeLibrary | str:
    """The library of an instruction set, or why it cannot be used."""
    path = library_path(isa)
    if not path.is_file():
        return f"{path.name} was not built; install a C++ compiler and run: python -m qwartet.kernels.cpu.build"
    try:
        functions = ctypes.CDLL(str(path))
        functions.qw_source_hash.restype = functions.qw_isa.restype = c_char_p
        if source_hash() not in ("", functions.qw_source_hash().decode()):
            return f"{path.name} was built from different sources; run: python -m qwartet.kernels.cpu.build"
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
        sizes = (c_int64 * len(_STRUCTURES))()
        functions.qw_structure_sizes(sizes)
    except (OSError, AttributeError) as error:
        return f"{path.name} cannot be loaded ({error})"
    if list(sizes) != [ctypes.sizeof(structure) for structure in _STRUCTURES]:
        return f"{path.name} has a different structure layout; run: python -m qwartet.kernels.cpu.build"
    return NativeLibrary(isa, path, functions)


@cache
def _load(isas: tuple[str, ...]) -> tuple[NativeLibrary | None, str | None]:
    reasons = []
    for isa in isas:
        opened = _open(isa)
        if isinstance(opened, NativeLibrary):
            return opened, None
        reasons.append(opened)
    return None, reasons[0] if reasons else f"{ISA_VARIABLE} is {NO_LIBRARY}"


def library_of(isa: str) -> NativeLibrary:
    """The library of one instruction set; RuntimeError, with the reason, if there is none."""
    library, reason = _load((isa,))
    if library is None:
        raise RuntimeError(reason)
    return library


def native_library() -> NativeLibrary | None:
    """The library for this processor, loaded once; None if there is none. Reads QWARTET_CPU_ISA, for select.py only."""
    return _load(wanted_isas())[0]


def unavailable_reason() -> str | None:
    """Why there is no native library, and what to do; None if there is one."""
    return _load(wanted_isas())[1]
