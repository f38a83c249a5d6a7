"""semantic-kernel: a chat service on OpenAI's client, with automatic function calls."""

from __future__ import annotations

from typing import Annotated, Any

from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.contents import ChatHistory
from semantic_kernel.exceptions import ServiceResponseException
from semantic_kernel.functions import kernel_function
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, run, use


class City(BaseModel):
    city: str = Field(max_length=20)


class Weather:
    @kernel_function
    def get_weather(self, city: Annotated[str, "The city."]) -> str:
        """Tells the weather of a city."""
        return f"sunny in {city}"


def service(url: str = BASE_URL, model: str = MODEL) -> OpenAIChatCompletion:
    return OpenAIChatCompletion(ai_model_id=model, async_client=AsyncOpenAI(base_url=url, api_key=API_KEY))


def settings(**options: Any) -> OpenAIChatPromptExecutionSettings:
    return OpenAIChatPromptExecutionSettings(temperature=0, max_tokens=200, **options)


def history(text: str = "hello") -> ChatHistory:
    made = ChatHistory(system_message="Be brief.")
    made.add_user_message(text)
    return made


@use
async def chat() -> None:
    assert str(await service().get_chat_message_content(history(), settings()))


@use
async def stream() -> None:
    pieces = [str(one) async for one in service().get_streaming_chat_message_content(history(), settings())]
    assert "".join(pieces)


@use
async def tool_loop() -> None:
    kernel = Kernel()
    kernel.add_plugin(Weather(), "weather")
    behavior = FunctionChoiceBehavior.Auto()
    made = history(WEATHER)
    answer = await service().get_chat_message_content(
        made, settings(function_choice_behavior=behavior), kernel=kernel
    )  # fmt: skip
    assert str(answer) and "tool" in [message.role.value for message in made.messages]


@use
async def agent() -> None:
    helper = ChatCompletionAgent(service=service(), name="helper", instructions="Be brief.", plugins=[Weather()])
    first = await helper.get_response(WEATHER)
    assert str(first) and str(await helper.get_response("Thanks!", thread=first.thread))


@use
async def structured() -> None:
    answer = await service().get_chat_message_content(history(WEATHER), settings(response_format=City))
    City.model_validate_json(str(answer))


@use
async def errors() -> None:
    try:
        await service(model="x").get_chat_message_content(history(), settings())
    except ServiceResponseException as error:
        assert "not served" in str(error)
        return
    raise AssertionError("no ServiceResponseException")


@use
async def retries() -> None:
    with busy() as url:
        assert str(await service(url).get_chat_message_content(history(), settings()))


run()
