"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.command_line import CommandLine
from tests.client.scripted_server import ScriptedServer
from tests.hub.fake_hub import NAME, TINY_MODEL, UNWANTED, FakeHub
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """As in the processes that the tests start, so that both give the same bits; and faster for a tiny model."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def qwartet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.delenv("QWARTET_DEBUG", raising=False)
    return CommandLine(capsys)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Both hubs of this process, with one tiny model."""
    with FakeHub({NAME: TINY_MODEL | UNWANTED}).serving() as hub:
        hub.become_the_hub(monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny-chat")


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny-base", chat_format="raw")
