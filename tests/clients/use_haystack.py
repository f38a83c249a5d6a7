"""haystack: its generators for the chat and Responses APIs, and its agent."""

from __future__ import annotations

from typing import Annotated, Any

import openai
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from haystack.utils import Secret
from pydantic import BaseModel, Field
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, raises, run, use

where: dict[str, Any] = {"model": MODEL, "api_base_url": BASE_URL, "api_key": Secret.from_token(API_KEY)}
settings = {"temperature": 0, "max_tokens": 200}
hello = [ChatMessage.from_system("Be brief."), ChatMessage.from_user("hello")]


class City(BaseModel):
    city: str = Field(max_length=20)


@tool
def get_weather(city: Annotated[str, "The city."]) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


@use
def chat() -> None:
    assert OpenAIChatGenerator(generation_kwargs=settings, **where).run(hello)["replies"][0].text


@use
def stream() -> None:
    pieces: list[str] = []
    made = OpenAIChatGenerator(
        generation_kwargs=settings, streaming_callback=lambda chunk: pieces.append(chunk.content), **where
    )  # fmt: skip
    assert made.run(hello)["replies"][0].text == "".join(pieces)


@use
def tool_loop() -> None:
    made = Agent(chat_generator=OpenAIChatGenerator(generation_kwargs=settings, **where), tools=[get_weather])
    found = made.run([ChatMessage.from_user(WEATHER)])["messages"]
    assert found[-1].text and "tool" in [message.role.value for message in found]


@use
def structured() -> None:
    made = OpenAIChatGenerator(generation_kwargs={**settings, "response_format": City}, **where)
    City.model_validate_json(made.run([ChatMessage.from_user(WEATHER)])["replies"][0].text)


@use
def responses() -> None:
    settings = {"temperature": 0, "max_output_tokens": 200}
    generator = OpenAIResponsesChatGenerator(generation_kwargs=settings, **where)
    assert generator.run(hello)["replies"][0].text
    found = Agent(chat_generator=generator, tools=[get_weather]).run([ChatMessage.from_user(WEATHER)])["messages"]
    assert found[-1].text and "tool" in [message.role.value for message in found]
    pieces: list[str] = []
    generator.run(hello, streaming_callback=lambda chunk: pieces.append(chunk.content))
    assert "".join(pieces)


@use
def errors() -> None:
    raises(openai.NotFoundError, lambda: OpenAIChatGenerator(**{**where, "model": "x"}).run(hello))


@use
def retries() -> None:
    with busy() as url:
        made = OpenAIChatGenerator(**{**where, "api_base_url": url}, generation_kwargs=settings, max_retries=3)
        assert made.run(hello)["replies"][0].text


run()
