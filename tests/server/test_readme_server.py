"""The server commands in the READMEs, as a reader would copy them, on another port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from qwartet import LLM
from tests.golden_data import REPOSITORY
from tests.server.running_server import RunningServer

READMES = ("README.md", "README.zh.md")
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(LLM(device="cpu"), model_name="qwartet-demo") as running:
        yield running


def example(name: str, pattern: str) -> str:
    found = re.search(pattern, (REPOSITORY / name).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", READMES)
def test_the_command_with_curl_answers(name: str, server: RunningServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    command = example(name, r"```sh\n(curl .*?)\n```").replace(ADDRESS, server.url)
    answered = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert json.loads(answered)["choices"][0]["message"]["content"].strip()


@pytest.mark.parametrize("name", READMES)
def test_the_lines_with_the_official_client_answer(
    name: str, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(example(name, r"```py\n(.*?)```").replace(ADDRESS, server.url), {})
    assert capsys.readouterr().out.strip()
