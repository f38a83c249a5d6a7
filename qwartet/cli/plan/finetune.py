"""`qwartet plan --finetune`: the memory of fine-tuning, as plain values and as lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.language.columns import padded
from qwartet.errors import SettingError

if TYPE_CHECKING:
    from qwartet.planning.finetune_memory import FinetuneLoad
    from qwartet.planning.stored_model import PlannedModel


def finetune_report(name: str, model: PlannedModel, load: FinetuneLoad) -> dict[str, Any]:
    """The plan, ready for JSON. SettingError where the method does not suit the precision."""
    import qwartet.llm  # noqa: F401  what a process takes by itself is measured on this one
    from qwartet.models.families import check_first_generation
    from qwartet.models.load import choose_settings
    from qwartet.planning.finetune_memory import FinetunePlan
    from qwartet.planning.memory_plan import network_memory, this_machine

    check_first_generation(model.config, Path(name), "fine-tuning")
    load.check(model.config)
    is_quantised = model.gptq is not None
    if is_quantised is not (load.method == "qlora"):
        needed = "an Int4 or Int8 model" if load.method == "qlora" else "a float model"
        raise SettingError(f"--finetune {load.method} needs {needed}, and {name} is {model.precision}; choose another")
    settings = choose_settings(model.checkpoint, model.config, model.gptq, dtype="bf16", head="exact")
    network, machine = network_memory(model.checkpoint, model.config, settings), this_machine()
    made = FinetunePlan(network, load, machine.process_bytes, machine.free_bytes)
    return {
        "model": name,
        "precision": model.precision,
        "finetune": load.method,
        "context": load.context,
        "batch_size": load.batch_size,
        "lora_rank": None if load.method == "full" else load.rank,
        "gradient_checkpointing": load.gradient_checkpointing,
        "trained_parameters": made.num_trained,
        "rows": made.rows,
        "total_bytes": made.total_bytes,
        "free_bytes": made.free_bytes,
        "fits": made.fits,
        "would_need_less": made.smaller(),
    }


def finetune_lines(report: dict[str, Any]) -> Iterator[str]:
    """The lines of a report; sizes in GiB."""
    yield translate(
        f"{report['model']} ({report['precision']}), {report['finetune']}: {report['batch_size']} x "
        f"{report['context']:,} tokens per step, {report['trained_parameters']:,} trained parameters"
    )
    spare = (report["free_bytes"] - report["total_bytes"]) / 2**30
    if report["fits"]:
        yield translate(f"CPU of this machine: fits, {spare:.2f} GiB to spare")
    else:
        options = " or ".join(report["would_need_less"]) or "a smaller model"
        yield translate(f"CPU of this machine: does not fit: {-spare:.2f} GiB short; needs less: {options}")
    rows = {**report["rows"], "total": report["total_bytes"], "free memory": report["free_bytes"]}
    for name, size in rows.items():
        yield f"  {padded(label(name), 24)}{size / 2**30:>9.3f} GiB"
