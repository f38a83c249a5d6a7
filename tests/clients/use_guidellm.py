"""guidellm: load from its command line, over each API."""

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
    prompts, report = folder / "prompts.jsonl", folder / "report.json"
    prompts.write_text("".join(json.dumps({"prompt": f"What is {n} + 3?"}) + "\n" for n in range(8)))
    options = {
        "backend": f"kind=openai_http,target={URL},model={MODEL},api_key={API_KEY},request_format={path}",
        "profile": "kind=synchronous",
        "constraint": "kind=max_requests,count=6",
        "data": f"kind=json_file,path={prompts}",
        "output": f"kind=json,path={report}",
    }
    program = Path(sys.executable).parent / "guidellm"
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    done = subprocess.run(
        [str(program), "run", "--disable-console", *words], capture_output=True, text=True, timeout=110, env=environment
    )
    assert done.returncode == 0, (done.stderr or done.stdout)[-1200:]
    totals = json.loads(report.read_text())["benchmarks"][0]["metrics"]["request_totals"]
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
