"""autogen: agents over its client for OpenAI."""

from __future__ import annotations

from typing import Any

import openai
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel, Field
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, run, use

info: Any = {
    "vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True,
    "multiple_system_messages": True,
}  # fmt: skip


class City(BaseModel):
    city: str = Field(max_length=20)


async def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


def client(url: str = BASE_URL, model: str = MODEL) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(
        model=model, base_url=url, api_key=API_KEY, model_info=info, temperature=0, max_tokens=200
    )  # fmt: skip


@use
async def chat() -> None:
    answer = await client().create([UserMessage(content="hello", source="user")])
    assert answer.content and answer.usage.completion_tokens


@use
async def stream() -> None:
    pieces = [one async for one in client().create_stream([UserMessage(content="hello", source="user")])]
    assert "".join(one for one in pieces if isinstance(one, str)) == pieces[-1].content


@use
async def tool_loop() -> None:
    agent = AssistantAgent("helper", client(), tools=[get_weather], reflect_on_tool_use=True)
    found = await agent.run(task=WEATHER)
    assert found.messages[-1].content
    assert "ToolCallExecutionEvent" in {type(one).__name__ for one in found.messages}


@use
async def structured() -> None:
    answer = await client().create([UserMessage(content=WEATHER, source="user")], json_output=City)
    City.model_validate_json(answer.content)


@use
async def group_chat() -> None:
    agents = [AssistantAgent(name, client(), system_message="Be brief.") for name in ("first", "second")]
    found = await RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(4)).run(task="hello")
    assert len(found.messages) == 4


@use
async def errors() -> None:
    try:
        await client(model="x").create([UserMessage(content="hello", source="user")])
    except openai.NotFoundError:
        return
    raise AssertionError("no NotFoundError")


@use
async def retries() -> None:
    with busy() as url:
        assert (await client(url).create([UserMessage(content="hello", source="user")])).content


run()
