"""Adapters over HTTP: the request's `model` chooses one, and /v1/models lists them below their model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qwartet import LLM
from tests.adapter_files import write_adapter
from tests.server.running_server import HELLO, MODEL, RunningServer

NAMES = (MODEL, "one", "two")


@pytest.fixture(scope="module")
def server(pristine: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    base, place = pristine(bits=4), tmp_path_factory.mktemp("adapters")
    adapters = {name: write_adapter(place / name, base, seed=number) for number, name in enumerate(NAMES[1:])}
    with LLM(base, adapters=adapters) as llm, RunningServer(llm) as server:
        yield server


def answer(server: RunningServer, model: str, **body: Any) -> tuple[str, str]:
    """The name in the answer, and its text."""
    asked = {"messages": HELLO, "temperature": 0, "max_tokens": 16, **body}
    response = server.post("/v1/chat/completions", model=model, **asked).json()
    return response["model"], response["choices"][0]["message"]["content"]


def test_the_model_of_a_request_chooses_its_adapter(server: RunningServer) -> None:
    own = {
        name: server.llm.chat("hello", adapter=None if name == MODEL else name, temperature=0, max_tokens=16)[0]
        for name in NAMES
    }
    assert len(set(own.values())) == len(NAMES)
    with ThreadPoolExecutor(len(NAMES)) as pool:
        found = list(pool.map(lambda name: answer(server, name), NAMES * 3))
    assert [(name, text.strip()) for name, text in found] == [(name, own[name].strip()) for name in NAMES * 3]


def test_completions_and_responses_choose_too(server: RunningServer) -> None:
    settings = {"temperature": 0, "max_tokens": 16}
    texts = {
        name: server.post("/v1/completions", model=name, prompt="hello", **settings).json()["choices"][0]["text"]
        for name in NAMES
    }
    assert len(set(texts.values())) == len(NAMES)
    response = server.post("/v1/responses", model="one", input="hello", temperature=0, max_output_tokens=16).json()
    assert response["model"] == "one" and response["status"] in ("completed", "incomplete")


def test_models_are_listed_with_their_parent(server: RunningServer) -> None:
    listed = server.get("/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in listed] == [(MODEL, None), ("one", MODEL), ("two", MODEL)]
    assert server.get("/v1/models/two").json()["parent"] == MODEL


def test_an_unknown_model_is_refused_with_the_names_that_are_served(server: RunningServer) -> None:
    response = server.post("/v1/chat/completions", model="three", messages=HELLO)
    assert response.status_code == 404
    assert "available: demo, one, two" in response.json()["error"]["message"]
