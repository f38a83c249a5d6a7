"""smolagents: agents that call tools directly or from code."""

from __future__ import annotations

from typing import Any

import openai
from smolagents import ChatMessage, MessageRole, OpenAIModel, ToolCallingAgent, tool
from uses import API_KEY, BASE_URL, CITY, MODEL, WEATHER, busy, raises, run, use


@tool
def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The city.
    """
    return f"sunny in {city}"


def model(url: str = BASE_URL, name: str = MODEL, **options: Any) -> OpenAIModel:
    return OpenAIModel(name, api_base=url, api_key=API_KEY, temperature=0, max_tokens=100, **options)


hello = [
    ChatMessage(role=MessageRole.SYSTEM, content=[{"type": "text", "text": "Be brief."}]),
    ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": "hello"}]),
]


@use
def chat() -> None:
    answer = model().generate(hello)
    assert answer.content and answer.token_usage.output_tokens


@use
def stream() -> None:
    assert "".join(piece.content or "" for piece in model().generate_stream(hello))


@use
def tools() -> None:
    asked = [ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": WEATHER}])]
    answer = model().generate(asked, tools_to_call_from=[get_weather])
    assert answer.tool_calls[0].function.name == "get_weather"


@use
def structured() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    assert model().generate(hello, response_format=wanted).content.startswith("{")


@use
def agent() -> None:
    """With a short prompt of its own: the usual one is longer than the context of the bundled model."""
    prompts = {
        "system_prompt": "Be brief.",
        "planning": {"initial_plan": "", "update_plan_pre_messages": "", "update_plan_post_messages": ""},
        "managed_agent": {"task": "", "report": ""},
        "final_answer": {"pre_messages": "", "post_messages": "{{task}}"},
    }
    made = ToolCallingAgent([get_weather], model(), prompt_templates=prompts, max_steps=1, verbosity_level=0)
    made.run(WEATHER)
    calls = [call.name for step in made.memory.steps for call in getattr(step, "tool_calls", None) or ()]
    assert calls == ["get_weather"], calls


@use
def errors() -> None:
    raises(openai.NotFoundError, lambda: model(name="x").generate(hello))


@use
def retries() -> None:
    with busy() as url:
        assert model(url).generate(hello).content


run()
