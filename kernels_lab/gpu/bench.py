"""How fast are the kernels of int4_gemv.py at the layer shapes of the 72B model, compared with the memory?

    python -m kernels_lab.gpu.bench --out build/gpu

What bounds a GEMV is reading its weights. First comes the ceiling: the best rate at which a kernel that only reads,
or torch's copy, goes through 2 GiB. A layer's weights are read in tens of microseconds, so filling and draining the
pipeline costs a part of that; the row "read only" is a plain read of as many bytes, the ceiling at that size.

Every kernel is timed as a CUDA graph of 64 or more calls that cycle through 512 MiB or more of other weights, so that
the 50 MB of L2 cannot hold them, and gaps between launches count as they would in a model. Median of 15 replays; every
number of splits (and, on tensor cores, of stages) is tried, and the table has the best one. Random weights, fixed seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels_lab.gpu.check import SHAPES_72B, Shape
from kernels_lab.gpu.int4_gemv import GROUP, PANEL, VARIANTS, PreparedWeight, Workspace

CEILING_BYTES = 2**31
ROTATED_BYTES = 2**29  # of weights, at least: ten times the L2
GRAPH_CALLS = 64  # at least: starting a graph, a few us, is shared among them
NUM_REPLAYS = 15
SEED = 0

NUM_SPLITS = (1, 2, 4, 8, 16)
NUM_STAGES = (2, 3, 4)  # of tiles_dot
READ_TILES = (2048, 4096, 8192)  # int32 that a program reads at a time
READ_PROGRAMS = (4, 8, 16)  # per multiprocessor
BATCHES = (1, 8, 16)  # M of tiles_dot

Call = Callable[[], object]


@triton.jit
def read_kernel(source, sink, num_tiles, TILE: tl.constexpr):
    """Reads int32 [num_tiles * TILE], a tile in turn for each program; adds them up, so that the reads have a use."""
    total = tl.zeros((TILE,), tl.int32)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        total += tl.load(source + tile * TILE + tl.arange(0, TILE))
    tl.store(sink + tl.program_id(0), tl.sum(total, 0))


@dataclass(frozen=True)
class Timing:
    """Of one call, in microseconds."""

    median_us: float
    least_us: float
    most_us: float


@dataclass(frozen=True)
class Result:
    """One row: what ran, on how many bytes, how long."""

    shape: str
    kernel: str
    M: int
    setting: str  # what was tried: splits, stages, tile sizes
    num_bytes: int  # read and written by one call, each tensor once
    timing: Timing
    is_right: bool = True  # the graph gave the same bits as a call outside of it

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes a second."""
        return self.num_bytes / self.timing.median_us / 1e3


def time_calls(calls: list[Call], num_calls: int = GRAPH_CALLS) -> Timing:
    """Times the calls, round and round, as one CUDA graph of `num_calls` or more."""
    for call in calls:
        call()  # compiles what is not compiled yet
    torch.cuda.synchronize()
    num_rounds = -(-num_calls // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(num_rounds):
            for call in calls:
                call()
    times = []
    for index in range(NUM_REPLAYS + 3):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        if index >= 3:  # the first warm up
            times.append(start.elapsed_time(stop) * 1e3 / (num_rounds * len(calls)))
    times.sort()
    return Timing(times[len(times) // 2], times[0], times[-1])


def best(results: list[Result]) -> Result:
    """The fastest by its median."""
    return min(results, key=lambda result: result.timing.median_us)


def read(source: Tensor, sink: Tensor, tile: int, num_programs: int) -> None:
    """Launches the plain read of int32 `source`."""
    read_kernel[(num_programs,)](source, sink, source.numel() // tile, TILE=tile, num_warps=4)


def time_reads(name: str, sources: list[Tensor], num_calls: int = GRAPH_CALLS) -> list[Result]:
    """Plain reads of the given buffers, in every setting."""
    num_sms = torch.cuda.get_device_properties(0).multi_processor_count
    results = []
    for tile in READ_TILES:
        for per_sm in READ_PROGRAMS:
            num_programs = min(per_sm * num_sms, sources[0].numel() // tile)
            sink = torch.empty(num_programs, dtype=torch.int32, device=sources[0].device)
            calls: list[Call] = [partial(read, source, sink, tile, num_programs) for source in sources]
            setting = f"tile {tile} programs/SM {per_sm}"
            timing = time_calls(calls, num_calls)
            results.append(Result(name, "read only", 0, setting, sources[0].nbytes, timing))
    return results


def time_ceiling(generator: torch.Generator) -> list[Result]:
    """The large read in every setting, and torch's copy of the same buffer, counting bytes read and written."""
    source = random_words((CEILING_BYTES // 4,), generator)
    results = time_reads("ceiling", [source], num_calls=4)
    target = torch.empty_like(source)
    timing = time_calls([partial(target.copy_, source)], num_calls=4)
    results.append(Result("ceiling", "copy", 0, "torch", 2 * source.nbytes, timing))
    return results


def random_words(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random bits: any int32 is 8 valid codes."""
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, generator=generator, device=generator.device)


def random_scales(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """fp16 between 0.001 and 0.011."""
    return (torch.rand(shape, generator=generator, device=generator.device) * 0.01 + 0.001).half()


def layouts(words: Tensor, scales: Tensor, bias: Tensor | None, shape: Shape) -> dict[str, PreparedWeight]:
    """The same random bits as a weight in either layout; N is a multiple of 64, so the sizes are equal."""
    K, N = shape.in_features, shape.out_features
    G, panels = K // GROUP, N // PANEL
    return {
        "file_fma": PreparedWeight("file", words.view(K // 8, N), scales.view(G, N), bias, K, N),
        "tiles_fma": PreparedWeight("tiles", words.view(panels, G, 1024), scales.view(panels, G, PANEL), bias, K, N),
        "tiles_dot": PreparedWeight("tiles", words.view(panels, G, 1024), scales.view(panels, G, PANEL), bias, K, N),
    }


def settings(kernel: str) -> Iterator[tuple[int, dict[str, int], int]]:
    """(splits, further arguments, M) to try."""
    for num_splits in NUM_SPLITS:
        if kernel != "tiles_dot":
            yield num_splits, {}, 1
            continue
        for num_stages in NUM_STAGES:
            for M in BATCHES:
                yield num_splits, {"num_stages": num_stages}, M


def time_shape(shape: Shape, generator: torch.Generator) -> list[Result]:
    """The plain read and every kernel in every setting."""
    K, N, device = shape.in_features, shape.out_features, generator.device
    num_weights = max(3, -(-ROTATED_BYTES // (K * N // 2)))
    words = [random_words((K * N // 8,), generator) for _ in range(num_weights)]
    scales = random_scales((num_weights, K // GROUP * N), generator)
    bias = torch.randn(N, generator=generator, device=device).half() if shape.has_bias else None
    weights = [layouts(*pair, bias, shape) for pair in zip(words, scales, strict=True)]
    results = time_reads(shape.name, words)
    for kernel, variant in VARIANTS.items():
        for num_splits, further, M in settings(kernel):
            x = torch.randn(M, K, generator=generator, device=device).bfloat16()
            out = torch.empty(M, N, dtype=torch.bfloat16, device=device)
            workspace = Workspace.allocate(M, N, num_splits, device)
            run = partial(variant.run, x, workspace=workspace, out=out, **further)
            timing = time_calls([partial(run, weight[kernel]) for weight in weights])
            graph_out = out.clone()
            is_right = torch.equal(run(weights[-1][kernel]), graph_out)
            setting = " ".join(f"{name} {value}" for name, value in {"splits": num_splits, **further}.items())
            num_bytes = weights[0][kernel].nbytes + x.nbytes + out.nbytes
            results.append(Result(shape.name, kernel, M, setting, num_bytes, timing, is_right))
    return results


def time_lm_head(generator: torch.Generator) -> list[Result]:
    """The one large matrix that is not quantised, by torch, for context."""
    weight = torch.randn(152_064, 8192, dtype=torch.bfloat16, generator=generator, device=generator.device)
    x = torch.randn(1, 8192, dtype=torch.bfloat16, generator=generator, device=generator.device)
    timing = time_calls([partial(torch.nn.functional.linear, x, weight)], num_calls=4)
    num_bytes = weight.nbytes + x.nbytes + weight.shape[0] * 2
    return [Result("lm_head", "torch bf16", 1, "", num_bytes, timing)]


def best_rows(results: list[Result]) -> list[Result]:
    """The best setting of every kernel at every shape and M; file_fma with one split too, the bottom of the ladder."""
    groups: dict[tuple[str, str, int, bool], list[Result]] = {}
    for result in results:
        is_bottom = result.kernel == "file_fma" and result.setting == "splits 1"
        groups.setdefault((result.shape, result.kernel, result.M, is_bottom), []).append(result)
    return [best(group) for group in groups.values()]


def report(results: list[Result]) -> dict[str, object]:
    """Prints the table; returns what goes into the last line."""
    ceiling = max(result.gb_per_s for result in results if result.shape == "ceiling")
    rows = best_rows(results)
    reads = {row.shape: row.gb_per_s for row in rows if row.kernel == "read only"}
    print(f"\nceiling {ceiling:.0f} GB/s, the best of {CEILING_BYTES / 2**30:.0f} GiB read or copied")
    print(f"{'shape':9}{'kernel':12}{'M':>3}{'us':>9}{'spread':>9}{'GB/s':>7}{'of ceiling':>12}{'of read':>9}  setting")
    summary = []
    for row in rows:
        of_ceiling, of_read = row.gb_per_s / ceiling, row.gb_per_s / reads.get(row.shape, ceiling)
        spread = (row.timing.most_us - row.timing.least_us) / row.timing.median_us
        rates = f"{row.timing.median_us:9.2f}{spread:9.1%}{row.gb_per_s:7.0f}{of_ceiling:12.1%}{of_read:9.1%}"
        print(f"{row.shape:9}{row.kernel:12}{row.M or '-':>3}{rates}  {row.setting}")
        us, gb_per_s = round(row.timing.median_us, 2), round(row.gb_per_s)
        summary.append([row.shape, row.kernel, row.M, row.setting, us, gb_per_s, round(100 * of_ceiling, 1)])
    return {
        "benchmark": "gpu_int4_gemv",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "seed": SEED,
        "ceiling_gb_per_s": round(ceiling),
        "columns": ["shape", "kernel", "M", "setting", "us", "gb_per_s", "percent_of_ceiling"],
        "rows": summary,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for the full result")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: nothing to time", file=sys.stderr)
        return 2
    began = time.monotonic()
    generator = torch.Generator("cuda").manual_seed(SEED)
    results = time_ceiling(generator)
    for shape in SHAPES_72B:
        results += time_shape(shape, generator)
        print(f"{shape.name} timed, {time.monotonic() - began:.0f} s so far", file=sys.stderr)
    results += time_lm_head(generator)
    summary = report(results)
    full = {**summary, "python": platform.python_version(), "results": [asdict(result) for result in results]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "int4_gemv.json").write_text(json.dumps(full, indent=1), encoding="utf-8")
    wrong = {f"{result.kernel} at {result.shape}" for result in results if not result.is_right}
    if wrong:
        print(f"WRONG: the graph gives other bits than separate calls: {', '.join(sorted(wrong))}")
    print(json.dumps(summary))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
