"""How each kind of KV cache changes the probabilities, in the terms of bench/numerics.py.

The reference is the network in fp32 over an fp32 cache. The same network over another cache shows what the cache alone
costs; the native kernels over it are what users run, with all their other rounding.
Everything is measured twice: with the checkpoint as it is, and with outliers in its keys (bench/outliers.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qwartet.bench.numerics import (
    Agreement,
    Log,
    LogitsOf,
    Progress,
    check_positions,
    compare,
    load_reference,
    logits_of,
    variants_dict,
)
from qwartet.bench.outliers import write_key_outliers
from qwartet.kernels.cache_layer import CacheDtype
from qwartet.kernels.cpu.library import native_library
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel

CACHES: dict[str, CacheDtype] = {"bf16": torch.bfloat16, "int8": "int8", "int4": "int4"}
REFERENCE, NATIVE = "fp32 over", "native over"


@dataclass(frozen=True)
class CacheReport:
    """Agreement by network and cache, for each variant of the checkpoint: "as it is" and "outliers in the keys"."""

    isa: str | None  # of the native kernels; None where there are none
    num_conversations: int  # of the text; the last ones may not have been needed
    variants: dict[str, dict[str, Agreement]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self), "variants": variants_dict(self.variants)}


def measure_cache_numerics(
    model: Path, examples: Sequence[Sequence[int]], num_positions: int, num_valid: int, log: Log = lambda _text: None
) -> CacheReport:
    """Compares the kinds of cache on a quantised checkpoint; examples and errors as in `measure_numerics`."""
    check_positions(model, examples, num_positions)
    variants = {}
    with tempfile.TemporaryDirectory() as folder:
        outliers = Path(folder) / "outliers"
        write_key_outliers(model, outliers)
        for variant, directory in (("as it is", model), ("outliers in the keys", outliers)):
            reference = load_reference(directory)
            variants[variant] = compare(
                partial(logits_of, reference),
                _rows(reference, directory),
                examples,
                num_positions,
                num_valid,
                Progress(variant, num_positions, log).show,
            )
    library = native_library()
    return CacheReport(None if library is None else library.isa, len(examples), variants)


def _rows(reference: QwenModel, directory: Path) -> dict[str, LogitsOf]:
    """What is compared with the reference, in the order of the table."""
    networks = {REFERENCE: reference}
    if native_library() is not None:  # no weight cache: the copy with outliers is temporary
        networks[NATIVE] = load_model(directory, dtype="bf16", device="cpu", head="exact", weight_cache=False)
    return {
        f"{way} {name}": partial(logits_of, network, cache_dtype=dtype)
        for way, network in networks.items()
        for name, dtype in CACHES.items()
    }
