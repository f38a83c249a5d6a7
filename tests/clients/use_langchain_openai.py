"""langchain-openai: chains, tools and structured output over both APIs."""

from __future__ import annotations

from typing import Any

import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, raises, run, run_example, use

where: dict[str, Any] = {"model": MODEL, "base_url": BASE_URL, "api_key": API_KEY, "temperature": 0}
model = ChatOpenAI(**where)


class City(BaseModel):
    """A city."""

    city: str = Field(max_length=20)


@tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


@use
def chat() -> None:
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage("hello")])
    assert answer.content and answer.usage_metadata["output_tokens"]


@use
def stream() -> None:
    pieces = list(model.stream("hello", stream_usage=True))
    assert "".join(str(piece.content) for piece in pieces) == model.invoke("hello").content
    assert any(piece.usage_metadata for piece in pieces)


@use
async def batch() -> None:
    answers = await model.abatch(["hello", WEATHER])
    assert all(answer.content for answer in answers)


def loop(bound: Any, first: Any) -> None:
    messages: list[Any] = [HumanMessage(WEATHER)]
    messages.append(first.invoke(messages))
    call = messages[-1].tool_calls[0]
    assert set(call["args"]) == {"city"}
    messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"], name="get_weather"))
    assert bound.invoke(messages).text


@use
def tool_loop() -> None:
    loop(model.bind_tools([get_weather]), model.bind_tools([get_weather], tool_choice="any", strict=True))


@use
def structured() -> None:
    for method in ("json_schema", "function_calling"):
        assert isinstance(model.with_structured_output(City, method=method).invoke(WEATHER), City)


@use
def structured_with_tools() -> None:
    bound = model.bind_tools([get_weather], response_format=City, strict=True)
    assert bound.invoke(WEATHER).content or bound.invoke(WEATHER).tool_calls


@use
def responses() -> None:
    other = ChatOpenAI(use_responses_api=True, **where)
    assert other.invoke("hello").text == model.invoke("hello").text
    assert "".join(piece.text for piece in other.stream("hello")) == model.invoke("hello").text
    loop(other.bind_tools([get_weather]), other.bind_tools([get_weather], tool_choice="any", strict=True))
    assert isinstance(other.with_structured_output(City).invoke(WEATHER), City)


@use
def completions() -> None:
    assert OpenAI(**where).invoke("one two")


@use
def errors() -> None:
    raises(openai.NotFoundError, lambda: ChatOpenAI(**{**where, "model": "x"}).invoke("hello"))
    raises(openai.BadRequestError, lambda: ChatOpenAI(**{**where, "temperature": -1}).invoke("hello"))


@use
def retries() -> None:
    with busy() as url:
        assert ChatOpenAI(**{**where, "base_url": url, "max_tokens": 5}).invoke("hello").content


@use
def example() -> None:
    run_example("langchain_chat.py")


run()
