"""SEC-17 too: the text of an unexpected error stays inside, whatever its type and origin."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwartet import LLM
from qwartet.cli.main import run
from qwartet.engine.async_engine import AsyncEngine
from qwartet.engine.engine import Engine
from qwartet.errors import CheckpointError, EngineFailedError, OutOfMemoryError, VocabularyError
from qwartet.openai_api import exchange
from qwartet.openai_api.batch import answer_line
from qwartet.openai_api.batch_file import BatchLine
from qwartet.openai_api.endpoints import CHAT_PATH, Endpoints
from qwartet.openai_api.log import log_failure
from tests.server.attack import COMPLETION
from tests.server.running_server import RunningServer, wait_for

SECRET = "".join(["Words", "Of", "A", "User"])  # so that a logged source line does not contain it
PLACE = "/srv/" + "inside"


class PanicError(BaseException):
    """Like a panic in native code."""


KINDS: dict[str, Callable[[], BaseException]] = {
    "an error": lambda: ValueError(f"{SECRET} {PLACE}"),
    "two that belong together": lambda: _chained(),
    "no memory": lambda: MemoryError(f"{SECRET} {PLACE}"),
    "no memory for the model": lambda: OutOfMemoryError(f"{SECRET} {PLACE}"),
    "a file": lambda: CheckpointError(PLACE, SECRET),
    "a vocabulary": lambda: VocabularyError(PLACE, SECRET),
    "an operating system's": lambda: FileNotFoundError(2, SECRET, PLACE),
    "an engine's": lambda: EngineFailedError(f"{SECRET} {PLACE}"),
    "a panic": lambda: PanicError(f"{SECRET} {PLACE}"),
}


def _chained() -> BaseException:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        outer = RuntimeError(PLACE)
        outer.__cause__ = error
        return outer


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture
def server(llm: LLM, caplog: pytest.LogCaptureFixture) -> Iterator[RunningServer]:
    caplog.set_level(logging.DEBUG, "qwartet")
    for name in ("uvicorn", "asyncio"):
        caplog.set_level(logging.WARNING, name)
    with RunningServer(llm) as running:
        yield running
        wait_for(running.is_idle)


def raiser(make: Callable[[], BaseException]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise make()

    return fail


def assert_discreet(text: str) -> None:
    assert SECRET not in text and PLACE not in text


PLACES = {
    "the prompt": (LLM, "prompt_ids"),
    "the queue": (AsyncEngine, "add"),
    "the answer": (exchange, "chat_completion"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_sec_17_whatever_fails_its_text_is_told_to_nobody(
    server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], BaseException],
    place: tuple[Any, str],
    stream: bool,
) -> None:
    owner, name = place
    if owner is exchange and stream:
        owner, name = exchange.ChatChunks, "of"
    is_panic = isinstance(make(), PanicError)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raiser(make))
        try:
            answer = server.chat(max_tokens=2, stream=stream, messages=[{"role": "user", "content": SECRET}])
            status, text = answer.status_code, answer.text
        except httpx.HTTPError:
            assert is_panic, "only a panic may break off a response that has begun"
            status, text = 0, ""
    assert_discreet(text)
    assert_discreet(caplog.text)
    if isinstance(make(), EngineFailedError):
        assert "engine_failed" in text  # logged once, where the engine is monitored
    elif status:
        request_id = answer.headers["x-request-id"]
        assert "out_of_memory" in text if isinstance(make(), MemoryError) else f"log for request {request_id}" in text
        assert f"request {request_id}: " in caplog.text and f"failed with {type(make()).__name__}" in caplog.text
        assert ".py:" in caplog.text
    assert server.chat(max_tokens=2).status_code == 200, "one failure does not affect the next request"


def test_a_failed_step_is_told_to_all_without_its_text_and_to_the_operator_with_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    llm = LLM(device="cpu")
    caplog.set_level(logging.INFO, "qwartet")
    with RunningServer(llm) as server:
        monkeypatch.setattr(Engine, "_step", raiser(KINDS["an error"]))
        for body in ({}, {"stream": True}, {}):
            answer = server.chat(**body)
            assert "engine_failed" in answer.text
            assert_discreet(answer.text)
        assert server.get("/health").json() == {"status": "failed"}
        assert_discreet(server.post(COMPLETION, prompt="a").text)
        assert llm.engine.failure is not None
        log_failure("the engine", llm.engine.failure)  # like run.py
    assert "the engine failed with ValueError" in caplog.text and "engine.py:" in caplog.text
    assert_discreet(caplog.text)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("a panic", "an engine's")])
def test_a_batch_tells_no_text_either(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 2}
    line = {"custom_id": "a", "method": "POST", "url": CHAT_PATH, "body": body}

    async def main() -> Any:
        async with AsyncEngine(llm.engine) as engine:
            return await answer_line(Endpoints(llm, engine, ["demo"]), BatchLine(1, json.dumps(line).encode()))

    monkeypatch.setattr(exchange, "chat_completion", raiser(KINDS[name]))
    found = asyncio.run(main())
    assert found.entry["response"]["status_code"] >= 500
    assert_discreet(json.dumps(found.entry) + str(found.error_message) + caplog.text)
    assert "failed with" in caplog.text and ".py:" in caplog.text


def test_the_log_shows_causes_and_frames_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    def deeper(depth: int) -> None:
        if not depth:
            raise _chained()
        deeper(depth - 1)

    try:
        deeper(200)
    except RuntimeError as error:
        log_failure("it", error)
    told = caplog.records[-1].getMessage()
    assert told.startswith("it failed with RuntimeError\n") and "KeyError\n" in told
    assert 30 < told.count("\n") < 70
    assert_discreet(told)


def test_a_checkpoint_without_a_vocabulary_is_not_served(
    checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint()
    for file in path.glob("*.tiktoken"):
        file.unlink()
    assert run(["serve", str(path), "--port", "0"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "holds no .tiktoken file" in told and "copy qwen.tiktoken into it" in told


def test_no_answer_names_a_place_on_the_disk(llm: LLM) -> None:
    paths = ["/v1/models", "/v1/models/a/name", "/v1/models/x", "/tokenizer_info", "/version", "/metrics", "/health"]
    with RunningServer(llm, model_name="a/name") as server:
        texts = [server.get(path).text for path in [*paths, "/openapi.json", "/docs", "/nothing", "/static/nothing"]]
        texts += [server.chat(model="x").text, server.chat(max_tokens=1).text, server.chat(guided_json="{").text]
    for text in texts:
        assert str(llm.model_path.parent) not in text and "site-packages" not in text and str(Path.home()) not in text
