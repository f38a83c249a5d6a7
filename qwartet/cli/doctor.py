"""`qwartet doctor`: hardware, versions, the kernels in use, and problems with the installation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qwartet.cli.language.catalogue import label, listed
from qwartet.cli.language.columns import padded
from qwartet.cli.model_lines import kernels_text
from qwartet.cli.options import AsJson
from qwartet.cli.terminal import error_line, json_line, one_line
from qwartet.cli.units import format_bytes

if TYPE_CHECKING:
    from qwartet.bench.machine import Report


def doctor(
    as_json: AsJson = False,
) -> int:
    """Check the installation: hardware, versions and kernels.

    It lists problems that need fixing; the exit code is 1 if there are any.
    """
    from qwartet.bench.machine import examine

    report = examine()
    if as_json:
        print(json_line(asdict(report)))
    else:
        for line in _lines(report):
            print(line)
    return 1 if report.problems else 0


def _lines(report: Report) -> Iterator[str]:
    for name, text in _facts(report):
        yield padded(label(name), 15) + one_line(text)
    for text in report.problems:
        yield error_line(f"problem: {text}")
    yield one_line(f"{len(report.problems) or 'no'} problem{'' if len(report.problems) == 1 else 's'} found")


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    yield "qwartet", report.versions["qwartet"]
    yield "python", f"{report.python}; {report.platform}"
    yield "packages", listed(f"{name} {text}" for name, text in report.versions.items() if name != "qwartet")
    yield "processor", _processor_line(report.processor)
    yield "memory", listed(f"{format_bytes(size)} {what}" for what, size in report.memory.items())
    yield "GPUs", listed(map(_gpu_line, report.gpus), "; ") or "none usable by torch"
    for device, kernels in report.kernels.items():
        yield f"kernels, {device}", kernels_text(kernels, "; ")
    yield "bundled model", report.bundled_model
    yield "environment", ", ".join(f"{name}={value}" for name, value in report.environment.items()) or "nothing set"


def _processor_line(processor: dict[str, Any]) -> str:
    instructions = " ".join(processor["instruction_sets"]) or "no supported vector instructions"
    cores = f"{processor['usable_cores']} of {processor['cores']} cores usable, torch uses {processor['torch_threads']}"
    return f"{processor['name']}; {cores}; {instructions}"


def _gpu_line(gpu: dict[str, Any]) -> str:
    return f"{gpu['device']} {gpu['name']}, {format_bytes(gpu['memory'])}, compute capability {gpu['capability']}"
