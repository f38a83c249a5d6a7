"""guidellm: a load from its command line, over each API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from uses import API_KEY, BASE_URL, MODEL, run, use

URL = BASE_URL.removesuffix("/v1")


def benchmark(path: str) -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"What is {n} + 3?"}) + "\n" for n in range(8)))
    program = Path(sys.executable).parent / "guidellm"
    options = {
        "target": URL, "model": MODEL, "profile": "synchronous", "max-requests": 6,
        "data": folder / "prompts.jsonl", "output-dir": folder, "outputs": "json", "request-format": path,
        "backend-kwargs": json.dumps({"api_key": API_KEY, "validate_backend": False}),
    }  # fmt: skip
    command = [
        str(program),
        "benchmark",
        "run",
        *(part for key, value in options.items() for part in (f"--{key}", str(value))),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment)
    assert done.returncode == 0, (done.stderr or done.stdout)[-1200:]
    report = json.loads(next(folder.glob("*.json")).read_text())
    totals = report["benchmarks"][0]["metrics"]["request_totals"]
    assert totals["successful"] == 6 and not totals["errored"], totals


@use
def chat() -> None:
    benchmark("/v1/chat/completions")


@use
def completions() -> None:
    benchmark("/v1/completions")


@use
def responses() -> None:
    benchmark("/v1/responses")


run()
