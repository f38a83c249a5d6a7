"""Every native operation at the shapes of the published models, against this machine's ceilings.

A linear over one token is bound by bytes, over many by arithmetic; attention over a long context by the bytes of the
cache. Enough copies of the weights take turns that none is still in a cache when it is used again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from qwartet.bench.ceilings import Ceilings, measure_ceilings
from qwartet.kernels.cache_layer import CacheDtype, CacheLayer
from qwartet.kernels.cpu.backend import Activations, CpuBackend
from qwartet.kernels.cpu.library import native_library
from qwartet.kernels.cpu.weights import GROUP, PANEL, PackedShape, PackedWeight, allocate
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import BLOCK_SIZE, KVCache, kv_bytes_per_token
from qwartet.models.shapes import HEAD_DIM, Shape

ROTATED_BYTES = 600_000_000  # far beyond any cache
MIN_COPIES = 3
FEW_ROWS = 16  # with more, arithmetic takes so long that caching does not matter
ROUNDS = 5  # the median counts


@dataclass(frozen=True)
class KernelResult:
    """One operation at one shape."""

    shape: str  # published size
    operation: str
    rows: int  # tokens
    seconds: float
    gb_s: float  # 1e9 bytes of weights or cache a second
    gop_s: float  # 1e9 operations a second
    bound: str  # "memory" or "int8" or "bf16": the ceiling that `share` refers to
    share: float


def linear_sizes(shape: Shape) -> dict[str, tuple[int, int]]:
    """The linears of a block: name -> (inputs, outputs)."""
    hidden, mlp = shape.hidden_size, shape.intermediate_size
    return {"qkv": (hidden, 3 * hidden), "output": (hidden, hidden), "up": (hidden, mlp), "down": (mlp, hidden)}


def measure_kernels(
    shapes: list[Shape],
    rows: tuple[int, ...],
    activations: tuple[Activations, ...],
    context: int,
    log: Callable[[KernelResult], None] = lambda _result: None,
) -> tuple[Ceilings, list[KernelResult]]:
    """Measures linears of 4 and 8 bits, dense linears and attention at these shapes; logs each result at once."""
    ceilings = measure_ceilings()
    results = []
    for shape in shapes:
        for result in (
            *_quantised(shape, rows, activations, ceilings),
            *_dense(shape, rows, ceilings),
            *_attention(shape, context, ceilings),
        ):
            results.append(result)
            log(result)
    return ceilings, results


def results_dict(ceilings: Ceilings, results: list[KernelResult]) -> dict[str, Any]:
    """Plain values, ready for JSON."""
    return {"ceilings": vars(ceilings), "results": [asdict(result) for result in results]}


def _seconds(calls: Sequence[Callable[[], Any]]) -> float:
    """Median over the rounds of the mean time of a call; each round makes every call once."""
    for call in calls:
        call()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for call in calls:
            call()
        times.append((time.perf_counter() - started) / len(calls))
    return sorted(times)[ROUNDS // 2]


def _backend(activations: Activations = "exact") -> CpuBackend:
    library = native_library()
    assert library is not None, "measuring the ceilings has loaded it"
    return CpuBackend(library, activations)


def _random_packed(inputs: int, outputs: int, bits: int, seed: int) -> PackedWeight:
    """A weight that exists only in its packed layout: random codes, scales of a plausible size."""
    shape = PackedShape(inputs, outputs, bits)
    size = shape.panels_bytes
    random = np.random.default_rng(seed)
    panels = allocate(size)
    panels.copy_(torch.from_numpy(random.integers(0, 256, size, dtype=np.uint8)))
    units = panels.view(-1, GROUP * PANEL * bits // 8 + 2 * PANEL)
    scales = (0.5 + torch.rand(units.shape[0], PANEL)) / 2**bits / inputs**0.5
    units[:, -2 * PANEL :] = scales.half().view(torch.uint8)
    return PackedWeight(shape, panels)


def _copies(num_bytes: int) -> int:
    return max(MIN_COPIES, ROTATED_BYTES // num_bytes)


def _tokens(rows: int, inputs: int) -> torch.Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows)).bfloat16()


def _result(
    shape: Shape,
    operation: str,
    rows: int,
    seconds: float,
    num_bytes: int,
    operations: int,
    peak: str,
    ceilings: Ceilings,
) -> KernelResult:
    """The binding ceiling is the one that would take longer."""
    peak_gop_s = {"int8": ceilings.int8_gop_s, "bf16": ceilings.bf16_gop_s, "fp32": ceilings.fp32_gop_s}[peak]
    gb_s, gop_s = num_bytes / seconds / 1e9, operations / seconds / 1e9
    shares = {"memory": gb_s / ceilings.read_gb_s, peak: gop_s / peak_gop_s}
    bound = max(shares, key=lambda name: shares[name])
    return KernelResult(shape.name, operation, rows, seconds, gb_s, gop_s, bound, shares[bound])


def _quantised(
    shape: Shape, rows: tuple[int, ...], activations: tuple[Activations, ...], ceilings: Ceilings
) -> Iterator[KernelResult]:
    for bits in (4, 8):
        for name, (inputs, outputs) in linear_sizes(shape).items():
            size = PackedShape(inputs, outputs, bits).panels_bytes
            weights = [_random_packed(inputs, outputs, bits, seed) for seed in range(_copies(size))]
            for mode in activations:
                cpu = _backend(mode)
                for count in rows:
                    x = _tokens(count, inputs)
                    used = weights if count <= FEW_ROWS else weights[:MIN_COPIES]
                    seconds = _seconds([partial(cpu.quantized_linear, x, weight) for weight in used])
                    operation = f"int{bits} {name}, {mode}"
                    yield _result(
                        shape, operation, count, seconds, size, 2 * count * inputs * outputs, "int8", ceilings
                    )


def _dense(shape: Shape, rows: tuple[int, ...], ceilings: Ceilings) -> Iterator[KernelResult]:
    inputs, outputs = linear_sizes(shape)["qkv"]
    size = 2 * inputs * outputs
    weights = [torch.randn(outputs, inputs).bfloat16() for _ in range(_copies(size))]
    cpu = _backend()
    for count in rows:
        x = _tokens(count, inputs)
        used = weights if count <= FEW_ROWS else weights[:MIN_COPIES]
        seconds = _seconds([partial(cpu.dense_linear, x, weight) for weight in used])
        yield _result(shape, "bf16 qkv", count, seconds, size, 2 * count * inputs * outputs, "bf16", ceilings)


def _attention(shape: Shape, context: int, ceilings: Ceilings) -> Iterator[KernelResult]:
    """A decode step over a long context."""
    num_blocks = -(-context // BLOCK_SIZE)
    size = (num_blocks, shape.num_heads, BLOCK_SIZE, HEAD_DIM)
    query = _tokens(1, shape.num_heads * HEAD_DIM).view(1, shape.num_heads, HEAD_DIM)
    cpu, table = _backend(), torch.randperm(num_blocks, dtype=torch.int32).unsqueeze(0)
    one, lengths = torch.zeros(1, dtype=torch.int32), torch.tensor([context], dtype=torch.int32)
    batch = ForwardBatch(one, one, None, torch.tensor([0, 1], dtype=torch.int32), lengths, table)
    dtypes: dict[str, CacheDtype] = {"bf16": torch.bfloat16, "int8": "int8", "int4": "int4"}
    for name, dtype in dtypes.items():
        num_bytes = num_blocks * BLOCK_SIZE * kv_bytes_per_token(1, shape.num_heads, HEAD_DIM, dtype)
        caches = [_random_cache(size, dtype) for _ in range(max(2, ROTATED_BYTES // num_bytes))]
        calls = [partial(cpu.paged_attention, query, cache, batch) for cache in caches]
        operations = 4 * context * shape.num_heads * HEAD_DIM
        yield _result(
            shape, f"attention over {context}, {name}", 1, _seconds(calls), num_bytes, operations, "fp32", ceilings
        )


def _random_cache(size: tuple[int, ...], dtype: CacheDtype) -> CacheLayer:
    """A layer of a cache as the engine makes it, filled."""
    num_blocks, num_heads, block_size, head_dim = size
    cache = KVCache(
        num_layers=1,
        num_blocks=num_blocks,
        num_kv_heads=num_heads,
        block_size=block_size,
        head_dim=head_dim,
        dtype=dtype,
    ).layers[0]
    for codes, scales in ((cache.keys, cache.key_scales), (cache.values, cache.value_scales)):
        codes.copy_(torch.randint(-127, 128, codes.shape, dtype=torch.int8))
        if scales is not None:
            scales.copy_(torch.rand(size[:3]) / 64)
    return cache
