"""pydantic-ai: agents with typed results, over both APIs."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, raises, run, use

settings: Any = {"temperature": 0.0, "max_tokens": 200}


def provider(url: str = BASE_URL) -> OpenAIProvider:
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=url, api_key=API_KEY))


class City(BaseModel):
    """A city."""

    city: str = Field(max_length=20)


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


def model(kind: Any = OpenAIChatModel, name: str = MODEL) -> Any:
    return kind(name, provider=provider())


@use
def chat() -> None:
    agent = Agent(model(), instructions="Be brief.", model_settings=settings)
    first = agent.run_sync("hello")
    assert first.output and first.usage.output_tokens
    assert agent.run_sync("And you?", message_history=first.all_messages()).output


async def streamed(kind: Any) -> str:
    async with Agent(model(kind), model_settings=settings).run_stream("hello") as result:
        return "".join([piece async for piece in result.stream_text(delta=True)])


@use
async def stream() -> None:
    assert await streamed(OpenAIChatModel)


@use
def tool_loop() -> None:
    agent = Agent(model(), tools=[get_weather], model_settings=settings)
    found = agent.run_sync(WEATHER)
    assert found.output and "tool-call" in str(found.all_messages_json())


@use
def structured() -> None:
    for output in (NativeOutput(City), ToolOutput(City)):
        assert isinstance(Agent(model(), output_type=output, model_settings=settings).run_sync(WEATHER).output, City)


@use
async def responses() -> None:
    agent: Any = Agent(model(OpenAIResponsesModel), tools=[get_weather], model_settings=settings)
    first = await agent.run(WEATHER)
    assert first.output and "tool-call" in str(first.all_messages_json())
    assert (await agent.run("And in Rome?", message_history=first.all_messages())).output
    assert await streamed(OpenAIResponsesModel)
    typed: Any = Agent(model(OpenAIResponsesModel), output_type=NativeOutput(City), model_settings=settings)
    assert isinstance((await typed.run(WEATHER)).output, City)


@use
def errors() -> None:
    raises(ModelHTTPError, lambda: Agent(model(name="x")).run_sync("hello"), "not served")


@use
def retries() -> None:
    with busy() as url:
        assert Agent(OpenAIChatModel(MODEL, provider=provider(url)), model_settings=settings).run_sync("hello").output


run()
