"""smolagents: agents that call tools, or write code in which they do."""

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
    """The prompt of its agent is longer than the context of the bundled model, so its steps alone are looked at."""
    made = ToolCallingAgent(
        tools=[get_weather], model=model(), max_steps=1, verbosity_level=0,
        prompt_templates={
            "system_prompt": "Be brief.", "planning": dict.fromkeys(("initial_plan", "update_plan_pre_messages", "update_plan_post_messages"), ""),
            "managed_agent": {"task": "", "report": ""}, "final_answer": {"pre_messages": "", "post_messages": "{{task}}"},
        },
    )  # fmt: skip
    made.run(WEATHER)
    step = made.memory.steps[-1]
    assert step.tool_calls and step.error is None, step


@use
def errors() -> None:
    raises(openai.NotFoundError, lambda: model(name="x").generate(hello))


@use
def retries() -> None:
    with busy() as url:
        assert model(url).generate(hello).content


run()
