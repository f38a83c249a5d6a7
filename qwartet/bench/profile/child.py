"""The process that forecasts or measures rows: a task as JSON on stdin, lines of JSON on stdout.

{"progress": [prompt tokens, generated tokens]}   now and then
{"result": {...}}                                 at the end, or
{"error": "...", "is_out_of_memory": false}
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from qwartet.errors import QwartetError, is_out_of_memory


def main() -> None:
    """Reads the task, does it, prints the result."""
    task = json.load(sys.stdin)
    stdout, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with the result
    try:
        _say(stdout, {"result": _do(task, stdout)})
    except Exception as error:
        if not isinstance(error, QwartetError) and not is_out_of_memory(error):
            raise
        _say(stdout, {"error": str(error) or type(error).__name__, "is_out_of_memory": is_out_of_memory(error)})


def _say(stream: TextIO, value: dict[str, Any]) -> None:
    print(json.dumps(value), file=stream, flush=True)


def _do(task: dict[str, Any], stdout: TextIO) -> dict[str, Any]:
    kind, directory, threads = task.pop("task"), Path(task.pop("model")), task.pop("threads")
    _set_threads(threads)
    if kind == "forecast":
        from qwartet.bench.profile.forecast import forecast_rows

        return forecast_rows(directory, [(context, generate) for context, generate in task.pop("lengths")], **task)
    from qwartet.bench.profile.measure import measure_row

    def on_progress(prompt: int, generated: int) -> None:
        _say(stdout, {"progress": [prompt, generated]})

    return asdict(measure_row(directory, on_progress=on_progress, **task))


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    import torch

    from qwartet.kernels.cpu.library import native_library

    torch.set_num_threads(threads)
    if (library := native_library()) is not None:
        library.set_num_threads(threads)


if __name__ == "__main__":
    main()
