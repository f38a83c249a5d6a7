"""`qwartet plan --quantize`: the memory and disk space of quantising, as plain values and as lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.language.columns import padded
from qwartet.errors import SettingError

if TYPE_CHECKING:
    from qwartet.models.shapes import Precision
    from qwartet.planning.stored_model import PlannedModel

CALIBRATION_LENGTH = 2048  # tokens of an example, unless set


class QuantizeWish(NamedTuple):
    """What is to be quantised, and on how much calibration."""

    precision: Precision  # of the result
    num_samples: int
    context: int | None  # tokens of a sample
    dtype: str  # of the forward passes; auto: fp32
    spill: bool
    gpu_bytes: int | None  # compute on a GPU with this memory


def quantize_report(name: str, model: PlannedModel, wish: QuantizeWish) -> dict[str, Any]:
    """The plan, ready for JSON. SettingError for a model that is quantised already, and for counts out of bounds."""
    import torch

    import qwartet.llm  # noqa: F401  what a process takes by itself is measured on this one
    from qwartet.checkpoint.planned_tensors import planned_tensors
    from qwartet.models.families import layout_of
    from qwartet.models.load import resolve_dtype
    from qwartet.models.shapes import gptq_config
    from qwartet.planning.memory_plan import this_machine
    from qwartet.quantize.calibration import check_counts
    from qwartet.quantize.memory import QuantizeLoad, device_rows, host_rows, writing_bytes

    if model.gptq is not None:
        raise SettingError(f"--quantize needs a float model, and {name} is {model.precision}; choose another")
    most = model.config.position.max_length
    context = min(CALIBRATION_LENGTH, most) if wish.context is None else wish.context
    check_counts(wish.num_samples, context)
    if context > most:
        raise SettingError(f"context is {context} tokens; with this model it must be between 1 and {most}")
    layout, wish = layout_of(model.config), wish._replace(dtype="fp32" if wish.dtype == "auto" else wish.dtype)
    dtype = resolve_dtype(wish.dtype, model.checkpoint, layout)  # type: ignore[arg-type]
    load = QuantizeLoad(wish.num_samples * context, context, wish.spill)
    machine = this_machine()
    device = torch.device("cpu" if wish.gpu_bytes is None else "cuda")
    block = dict(device_rows(model.config, load, dtype=dtype, device=device, order=True))
    host = {**host_rows(model.config, load, dtype), "the process itself": machine.process_bytes}
    on_cpu = {**block, **host} if wish.gpu_bytes is None else host
    on_gpu = {} if wish.gpu_bytes is None else block
    tensors = list(planned_tensors(layout, gptq_config(wish.precision), "F16"))
    result = sum(tensor.nbytes for tensor in tensors)
    writing = writing_bytes(layout, result) + machine.process_bytes
    blocks = sum(tensor.nbytes for tensor in tensors if layout.layer_of(tensor.name) is not None)
    total, on_gpu_total = max(sum(on_cpu.values()), writing), sum(on_gpu.values())
    return {
        "model": name,
        "precision": wish.precision,
        "calibration_tokens": load.num_tokens,
        "dtype": str(dtype).removeprefix("torch."),
        "rows": on_cpu,
        "writing_bytes": writing,
        "total_bytes": total,
        "free_bytes": machine.free_bytes,
        "gpu_rows": on_gpu,
        "gpu_bytes": on_gpu_total,
        "gpu_memory_bytes": wish.gpu_bytes,
        "fits": total <= machine.free_bytes and on_gpu_total <= (wish.gpu_bytes or 0),
        "disk_bytes": {
            "result": result,
            "finished blocks": blocks,
            "activations": load.stored_bytes(model.config, dtype) if wish.spill else 0,
        },
        "would_need_less": _smaller(wish, on_host=total > machine.free_bytes),
    }


def quantize_lines(report: dict[str, Any]) -> Iterator[str]:
    """The lines of a report; sizes in GiB."""
    yield translate(
        f"{report['model']} to {report['precision']}: {report['calibration_tokens']:,} calibration tokens, "
        f"forward passes in {report['dtype']}"
    )
    spare = (report["free_bytes"] - report["total_bytes"]) / 2**30
    if report["gpu_memory_bytes"] is not None:
        short = (report["gpu_memory_bytes"] - report["gpu_bytes"]) / 2**30
        spare = min(spare, short)
    if report["fits"]:
        yield translate(f"fits, {spare:.2f} GiB to spare")
    else:
        options = " or ".join(report["would_need_less"]) or "a smaller model"
        yield translate(f"does not fit: {-spare:.2f} GiB short; needs less: {options}")
    if report["gpu_rows"]:
        yield from _section("GPU", {**report["gpu_rows"], "total": report["gpu_bytes"]})
    rows = {**report["rows"], "total": report["total_bytes"], "free memory": report["free_bytes"]}
    yield from _section("memory", rows)
    yield translate(f"while the result is written: {report['writing_bytes'] / 2**30:.2f} GiB")
    yield from _section("disk", {name: size for name, size in report["disk_bytes"].items() if size})


def _section(name: str, rows: dict[str, int]) -> Iterator[str]:
    yield f"{label(name)}:"
    for row, size in rows.items():
        yield f"  {padded(label(row), 30)}{size / 2**30:>9.3f} GiB"


def _smaller(wish: QuantizeWish, *, on_host: bool) -> list[str]:
    """Options that would need less memory; `on_host`: where the activations are kept."""
    options = []
    if on_host and not wish.spill:
        options.append("--spill")
        if wish.num_samples > 1:
            options.append(f"--num-samples {wish.num_samples // 2}")
    return options + (["--dtype bf16"] if wish.dtype == "fp32" else [])
