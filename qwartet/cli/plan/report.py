"""A plan as plain values, ready for JSON: this machine's CPU, GPUs, and published figures."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from qwartet.models.load import Dtype
    from qwartet.planning.gpu_memory import GpuPlan
    from qwartet.planning.memory_plan import MemoryPlan, NetworkMemory, Workload
    from qwartet.planning.stored_model import PlannedModel


class Hardware(NamedTuple):
    """The hardware as the user describes it; None: measure it, or leave out what depends on it."""

    num_gpus: int | None
    gpu_bytes: int | None  # of each
    gpu_gb_per_s: float | None  # of each
    cpu_gb_per_s: float | None


def report_of(
    name: str,
    model: PlannedModel,
    hardware: Hardware,
    *,
    context: int | None,
    concurrency: int,
    kv_cache_dtype: str,
    dtype: Dtype,
    head: str,
) -> dict[str, Any]:
    """The complete plan. SettingError for a workload that the model does not support."""
    # What a process takes by itself is measured on this one, so it must have loaded what a running model needs.
    import qwartet.llm  # noqa: F401
    from qwartet.models.load import choose_settings
    from qwartet.planning.gpu_memory import GpuPlan, gpu_counts, gpu_network
    from qwartet.planning.memory_plan import MemoryPlan, Workload, cache_kind, network_memory, this_machine

    checkpoint, config = model.checkpoint, model.config
    settings = choose_settings(checkpoint, config, model.gptq, dtype=dtype, head=head)
    num_tokens = config.position.max_length if context is None else context
    workload = Workload(num_tokens, concurrency, cache_kind(kv_cache_dtype, settings.dtype))
    workload.check(config)
    counts = gpu_counts(config, hardware.num_gpus)
    made = MemoryPlan(network_memory(checkpoint, config, settings), workload, this_machine(), model.num_ranks)
    on_gpus = gpu_network(checkpoint, config, settings)
    gpu_bytes = _memory_of_gpus() if hardware.gpu_bytes is None else hardware.gpu_bytes
    return {
        "model": name,
        "precision": model.precision,
        **_cpu(made, _cpu_bandwidth(hardware), _disk_speed(made, model)),
        "gpu_memory_bytes": gpu_bytes,
        "gpus": [_gpu(GpuPlan(on_gpus, workload, count, gpu_bytes), hardware.gpu_gb_per_s) for count in counts],
        "published": [] if model.size is None else _published(model.size, model.precision, on_gpus),
    }


def _memory_of_gpus() -> int | None:
    """Memory of this machine's smallest GPU in bytes; None without one."""
    import torch

    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes, default=None)


def _cpu_bandwidth(hardware: Hardware) -> float | None:
    """Bytes per second; None without the native library, which measures it."""
    from qwartet.bench.ceilings import read_speed
    from qwartet.kernels.cpu.library import native_library

    if hardware.cpu_gb_per_s is not None:
        return hardware.cpu_gb_per_s * 1e9
    library = native_library()
    return None if library is None else read_speed(library, 2**28, rounds=2)


def _disk_speed(made: MemoryPlan, model: PlannedModel) -> float | None:
    """Bytes per second of the disk that weights would stream from; None without streaming or without local weights."""
    from qwartet.files import disk_read_speed

    file = model.checkpoint.files[0]
    return disk_read_speed(file) if made.stream is not None and file.is_file() else None


def _cpu(made: MemoryPlan, bandwidth: float | None, disk_speed: float | None) -> dict[str, Any]:
    from qwartet.planning.memory_plan import CACHE_KINDS

    workload, network = made.workload, made.network
    kinds = dict.fromkeys((workload.kind, *CACHE_KINDS))
    return {
        "dtype": str(network.settings.dtype).removeprefix("torch."),
        "context": workload.context,
        "concurrency": workload.concurrency,
        "kv_cache_dtype": workload.kind,
        "max_num_batched_tokens": workload.max_num_batched_tokens,
        "rows": made.rows,
        "weights_bytes": network.weights_bytes,
        "total_bytes": made.total_bytes,
        "free_bytes": made.machine.free_bytes,
        "fits": made.fits,
        "peak_first_start_bytes": made.peak_first_bytes,
        "peak_later_start_bytes": made.peak_later_bytes,
        "kept_on_disk_bytes": network.kept_bytes,
        "peak_unkept_bytes": made.peak_unkept_bytes,
        "largest_context": made.largest_context,
        "largest_concurrency": made.largest_concurrency,
        "kv_caches": [_cache(made.with_workload(kind=kind)) for kind in kinds],
        "weights_fit": network.weights_bytes <= made.machine.free_bytes,
        "speed": None if bandwidth is None else _speed(network, workload, bandwidth),
        "stream": _stream(made, disk_speed),
    }


def _cache(made: MemoryPlan) -> dict[str, Any]:
    from qwartet.planning.memory_plan import cache_bytes_per_token

    return {
        "kv_cache_dtype": made.workload.kind,
        "bytes_per_token": cache_bytes_per_token(made.network.config, made.workload.kind),
        "cache_bytes": made.rows["KV cache"],
        "total_bytes": made.total_bytes,
        "fits": made.fits,
        "largest_context": made.largest_context,
        "largest_concurrency": made.largest_concurrency,
    }


def _speed(network: NetworkMemory, workload: Workload, bandwidth: float, num_parallel: int = 1) -> dict[str, float]:
    """Upper bound of one request's decoding speed, with an empty and with a full context."""
    from qwartet.planning.decode_speed import most_tokens_per_s

    speeds = (most_tokens_per_s(network, workload.kind, n, bandwidth, num_parallel) for n in (0, workload.context))
    empty, full = (round(speed, 2) for speed in speeds)
    return {"bandwidth_bytes_per_s": bandwidth, "most_tokens_per_s": empty, "most_tokens_per_s_full": full}


def _stream(made: MemoryPlan, disk_speed: float | None) -> dict[str, Any] | None:
    stream = made.stream
    if stream is None:
        return None
    seconds = None if disk_speed is None else round(stream.streamed_bytes / disk_speed, 2)
    return {**asdict(stream), "disk_bytes_per_s": disk_speed, "seconds_per_step": seconds}


def _gpu(made: GpuPlan, gb_per_s: float | None) -> dict[str, Any]:
    from qwartet.planning.memory_plan import CACHE_KINDS

    workload = made.workload
    num_parallel = 1 if made.split == "layers" else made.num_gpus  # GPUs with layers of their own take turns
    speed = None if gb_per_s is None else _speed(made.network, workload, gb_per_s * 1e9, num_parallel)
    known = made.gpu_bytes is not None
    contexts = {kind: made.with_workload(kind=kind).largest_context for kind in (workload.kind, *CACHE_KINDS)}
    return {
        "gpus": made.num_gpus,
        "split": made.split,
        "rows": made.rows,
        "bytes_per_gpu": made.total_bytes,
        "fits": made.fits if known else None,
        "largest_contexts": contexts if known else None,
        "largest_concurrency": made.largest_concurrency if known else None,
        "speed": speed,
    }


def _published(size: str, precision: str, network: NetworkMemory) -> list[dict[str, Any]]:
    """The published runs of a checkpoint, each with the plan's figure for the same run."""
    from qwartet.planning.gpu_memory import GpuPlan
    from qwartet.planning.memory_plan import Workload
    from qwartet.planning.published_figures import GENERATED_TOKENS, published_runs

    rows = []
    for run in published_runs(size, precision):
        workload = Workload(min(run.prompt_tokens + GENERATED_TOKENS, network.config.position.max_length), 1, "bf16")
        planned = GpuPlan(network, workload, run.num_gpus)
        rows.append({**asdict(run), "planned_bytes": run.num_gpus * planned.total_bytes})
    return rows
