"""openai-agents: OpenAI's agents, which use the Responses API by default."""

from __future__ import annotations

from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel, Field
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, run, use

set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY)
settings = ModelSettings(temperature=0, max_tokens=200)


class City(BaseModel):
    city: str = Field(max_length=20)


@function_tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


def agent(kind: Any, name: str = MODEL, of: Any = client, **options: Any) -> Agent:
    return Agent(
        name="Helper", instructions="Be brief.", model=kind(model=name, openai_client=of), model_settings=settings,
        **options,
    )  # fmt: skip


async def streamed(kind: Any) -> str:
    result = Runner.run_streamed(agent(kind), "hello")
    found = [event async for event in result.stream_events() if event.type == "raw_response_event"]
    return "".join(one.data.delta for one in found if one.data.type == "response.output_text.delta")


async def looped(kind: Any) -> None:
    forced = settings.resolve(ModelSettings(tool_choice="required"))
    made = agent(kind, tools=[get_weather])
    made.model_settings = forced
    result = await Runner.run(made, WEATHER, max_turns=4)
    assert result.final_output
    assert {"tool_call_item", "tool_call_output_item"} <= {item.type for item in result.new_items}
    again = await Runner.run(agent(kind), [*result.to_input_list(), {"role": "user", "content": "Thanks!"}])
    assert again.final_output


@use
async def responses() -> None:
    assert (await Runner.run(agent(OpenAIResponsesModel), "hello")).final_output
    assert await streamed(OpenAIResponsesModel)


@use
async def responses_tool_loop() -> None:
    await looped(OpenAIResponsesModel)


@use
async def chat() -> None:
    assert (await Runner.run(agent(OpenAIChatCompletionsModel), "hello")).final_output
    assert await streamed(OpenAIChatCompletionsModel)


@use
async def chat_tool_loop() -> None:
    await looped(OpenAIChatCompletionsModel)


@use
async def structured() -> None:
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        assert isinstance((await Runner.run(agent(kind, output_type=City), WEATHER)).final_output, City)


@use
async def hands_over_and_remembers() -> None:
    session = SQLiteSession("a session")
    other = agent(OpenAIResponsesModel)
    first = agent(OpenAIResponsesModel, handoffs=[other])
    for question in ("hello", WEATHER):
        assert (await Runner.run(first, question, session=session, max_turns=4)).final_output


@use
async def errors() -> None:
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        try:
            await Runner.run(agent(kind, name="x"), "hello")
        except openai.NotFoundError:
            continue
        raise AssertionError("no NotFoundError")


@use
async def retries() -> None:
    with busy() as url:
        assert (
            await Runner.run(agent(OpenAIResponsesModel, of=client.with_options(base_url=url)), "hello")
        ).final_output


run()
