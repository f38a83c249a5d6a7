"""llm: a command line and a library; the model is listed in its models file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from uses import API_KEY, BASE_URL, BUSY_URL, CITY, MODEL, WEATHER, busy, raises, run, use

os.environ["LLM_USER_PATH"] = folder = tempfile.mkdtemp()
models = [
    {"model_id": name, "model_name": model, "api_base": url, "api_key_name": "ours", "supports_tools": True,
     "supports_schema": True}
    for name, model, url in (("ours", MODEL, BASE_URL), ("busy", MODEL, BUSY_URL), ("missing", "x", BASE_URL))
]  # fmt: skip
Path(folder, "extra-openai-models.yaml").write_text(json.dumps(models))  # which is YAML too
Path(folder, "keys.json").write_text(json.dumps({"ours": API_KEY}))
import llm  # noqa: E402 - reads the folder as it is loaded


def model(name: str = "ours") -> llm.Model:
    return llm.get_model(name)


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


@use
def chat() -> None:
    conversation = model().conversation()
    assert conversation.prompt("hello", system="Be brief.", stream=False).text()
    assert conversation.prompt("And you?", stream=False).text()


@use
def stream() -> None:
    assert "".join(model().prompt("hello", temperature=0))


@use
def tool_loop() -> None:
    for is_stream in (False, True):
        chain = model().chain(WEATHER, tools=[get_weather], stream=is_stream, options={"temperature": 0})
        assert chain.text() and any(response.tool_calls() for response in chain.responses())


@use
def structured() -> None:
    assert model().prompt(WEATHER, schema=CITY, stream=False, temperature=0).text().startswith("{")


@use
def errors() -> None:
    raises(Exception, lambda: model("missing").prompt("hello").text(), "not served")


@use
def retries() -> None:
    with busy():
        assert model("busy").prompt("hello").text()


run()
