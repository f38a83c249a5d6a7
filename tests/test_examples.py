"""Every example runs as it is, and prints what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.command_line import environment

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARED = {"our_server.py"}
PRINTED = {
    "chat.py": ["Your name is Rosa.", "～"],
    "batch_chat.py": ["40 + 7 = 47", "49 + 7 = 56"],
    "streaming.py": ["23 + 45 = 68", "(11 tokens, finished by 'stop')", "你好！"],
    "structured_output.py": ["'age': ", "23 + 45 = 68\n7\n"],
    "speculative_decoding.py": ["Red blue green red blue green"],
    "quantize.py": ["10 linears quantised", "3.1 MiB -> 1.6 MiB", "the quantised model runs"],
    "tools.py": ["get_weather({'city': 'Oslo'})", "sunny"],
    "serve_behind_a_proxy.py": ["23 + 45 = 68"],
    "langchain_chat.py": ["23 + 45 = 68", "你好"],
    "llama_index_chat.py": ["23 + 45 = 68"],
    "tour.ipynb": ["codes 0 to 15"],
}
NEEDS = {"langchain_chat.py": "langchain_openai", "llama_index_chat.py": "llama_index"}  # make test-clients runs these


def run(*command: object) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment(), timeout=120, cwd=EXAMPLES
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_promises(name: str) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    if name.endswith(".ipynb"):
        cells = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        printed = run(sys.executable, "-c", code)
    else:
        printed = run(sys.executable, EXAMPLES / name)
    assert [text for text in PRINTED[name] if text not in printed] == [], printed


def test_speculation_takes_fewer_steps() -> None:
    steps = re.findall(r"(\d+) steps", run(sys.executable, EXAMPLES / "speculative_decoding.py"))
    assert int(steps[1]) < int(steps[0])


def test_the_list_names_every_example() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")} - SHARED
    listed = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert files == listed == set(PRINTED)
