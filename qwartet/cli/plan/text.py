"""A plan as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qwartet.cli.language.catalogue import label, listed, translate
from qwartet.cli.language.columns import padded, right_aligned


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """The lines of `report_of`'s values, in the language in use; sizes in GiB."""
    context, concurrency = report["context"], report["concurrency"]
    sections = [_cpu_lines(report), _gpu_lines(report)]
    if report["gpu_memory_bytes"] is not None:  # then the user asks about GPUs
        sections.reverse()
    yield translate(
        f"{report['model']} ({report['precision']}): {_requests(concurrency)} of {context:,} tokens, "
        f"{report['kv_cache_dtype']} KV cache"
    )
    for section in sections:
        yield ""
        yield from section
    if report["published"]:
        yield ""
        yield from _published_lines(report["published"])


def _cpu_lines(report: dict[str, Any]) -> Iterator[str]:
    context, concurrency = report["context"], report["concurrency"]
    yield translate(f"CPU of this machine, {report['dtype']}: {_verdict(report)}")
    rows = {**report["rows"], "total": report["total_bytes"], "free memory": report["free_bytes"]}
    for name, size in rows.items():
        yield f"  {padded(label(name), 24)}{_gib(size, 3):>13}"
    yield from map(translate, _start_lines(report))
    if report["speed"] is not None and report["stream"] is None:
        yield translate(f"decoding speed of one request: {_speed(report['speed'], context)}")
    yield ""
    headings = (("per token", 12), ("cache", 12), ("total", 12), ("longest context", 17), ("most requests", 15))
    yield f"  {padded(label('KV cache'), 10)}{_headings(headings)}"
    for kind in report["kv_caches"]:
        yield (
            f"  {kind['kv_cache_dtype']:<10}{kind['bytes_per_token'] / 1024:>8,.0f} KiB{_gib(kind['cache_bytes']):>12}"
            f"{_gib(kind['total_bytes']):>12}{kind['largest_context']:>17,}{kind['largest_concurrency']:>15,}"
        )
    most = f"longest context: with {_requests(concurrency)} at once; most requests: with {context:,} tokens each"
    yield f"  {translate(most)}"


def _headings(columns: tuple[tuple[str, int], ...]) -> str:
    """Headings of columns of figures, each with its width."""
    return "".join(right_aligned(label(name), width) for name, width in columns)


def _gib(num_bytes: int, digits: int = 2) -> str:
    return f"{num_bytes / 2**30:.{digits}f} GiB"


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _speed(speed: dict[str, float], context: int) -> str:
    return (
        f"at most {speed['most_tokens_per_s']:.1f} tokens/s, {speed['most_tokens_per_s_full']:.1f} at {context:,} "
        f"tokens ({speed['bandwidth_bytes_per_s'] / 1e9:.0f} GB/s)"
    )


def _verdict(report: dict[str, Any]) -> str:
    missing = report["total_bytes"] - report["free_bytes"]
    if missing <= 0:
        return f"fits, {_gib(-missing)} to spare"
    if not report["weights_fit"]:
        return f"does not fit: the weights alone take {_gib(report['weights_bytes'])}"
    context, count = report["largest_context"], report["largest_concurrency"]
    options = [f"--context {context}"] if context else []
    options += [f"--concurrency {count}"] if count else []
    smaller = [kind for kind in report["kv_caches"] if kind["fits"]]
    options += [f"--kv-cache-dtype {smaller[0]['kv_cache_dtype']}"] if smaller else []
    return f"does not fit: {_gib(missing)} short; would fit: {' or '.join(options) or 'a smaller model'}"


def _start_lines(report: dict[str, Any]) -> Iterator[str]:
    first, later = report["peak_first_start_bytes"], report["peak_later_start_bytes"]
    if first > later:
        yield f"the first start needs up to {_gib(first)}, later ones {_gib(later)}"
    if report["kept_on_disk_bytes"]:
        yield f"the first start writes {_gib(report['kept_on_disk_bytes'])} of repacked weights to disk for later ones"
        if report["peak_unkept_bytes"] > first:
            yield f"without disk space for them, every start needs up to {_gib(report['peak_unkept_bytes'])} of memory"
    elif later > report["total_bytes"]:
        yield f"every start needs up to {_gib(later)} while it repacks or converts the weights"
    stream = report["stream"]
    if stream is not None:
        yield (
            f"it streams from disk: {stream['num_resident']} of {stream['num_layers']} layers stay in memory, "
            f"{_gib(stream['streamed_bytes'])} are read from disk for every token, or for every "
            f"{report['max_num_batched_tokens']} prompt tokens{_seconds(stream)}"
        )
    elif not report["weights_fit"]:
        yield "these settings cannot stream from disk: the model will not load, or with --force it will swap"


def _seconds(stream: dict[str, Any]) -> str:
    seconds, speed = stream["seconds_per_step"], stream["disk_bytes_per_s"]
    return "" if seconds is None else f"; at this disk's {speed / 1e9:.2f} GB/s that takes {seconds} s"


def _gpu_lines(report: dict[str, Any]) -> Iterator[str]:
    size = report["gpu_memory_bytes"]
    of = "" if size is None else f" of {_gib(size, 0)}"
    yield translate(f"GPUs{of}: calculated; Qwartet's GPU kernels are not measured yet, and it runs on one GPU only")
    for gpu in report["gpus"]:
        yield translate(f"  {gpu['gpus']} x {_gib(gpu['bytes_per_gpu'])}{_gpu_verdict(gpu, report)}")
        parts = label(", ").join(f"{label(name)} {_gib(part)}" for name, part in gpu["rows"].items())
        shared = {"heads": ["tensor parallel"], "layers": ["layers split, the GPUs take turns"]}
        yield f"      {listed([parts, *shared.get(gpu['split'], ())], '; ')}"
        if gpu["speed"] is not None:
            yield translate(f"      decoding speed of one request: {_speed(gpu['speed'], report['context'])}")
    if size is None:
        yield translate("  --gpu-memory 48GiB says whether it fits; --gpu-bandwidth GB/S estimates tokens/s")


def _gpu_verdict(gpu: dict[str, Any], report: dict[str, Any]) -> str:
    if gpu["fits"] is None:
        return ""
    contexts = gpu["largest_contexts"]
    if gpu["fits"]:
        return f": fits, up to {_requests(gpu['largest_concurrency'])} at once"
    if gpu["rows"]["weights"] > report["gpu_memory_bytes"]:
        return ": does not fit, the weights alone are too large"
    longest = listed(f"{context:,} ({kind} KV cache)" for kind, context in contexts.items() if context)
    return f": does not fit; would fit: --context {longest}" if longest else ": does not fit"


def _published_lines(runs: list[dict[str, Any]]) -> Iterator[str]:
    yield translate(
        "published for this checkpoint on A100-80G GPUs, 2,048 tokens generated (the published GB are GiB):"
    )
    figures = (("tokens/s", 10), ("GPU memory", 14), ("planned here", 15))
    yield f"  {_headings((('prompt', 8), ('GPUs', 6)))}  {padded(label('engine'), 14)}{_headings(figures)}"
    for run in runs:
        memory = label("all") if run["memory_gib"] is None else f"{run['memory_gib']:.2f} GiB"
        yield (
            f"  {run['prompt_tokens']:>8,}{run['num_gpus']:>6}  {run['engine']:<14}{run['tokens_per_s']:>10.2f}"
            f"{right_aligned(memory, 14)}{_gib(run['planned_bytes']):>15}"
        )
