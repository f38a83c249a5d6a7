"""openai for Python: the official client."""

from __future__ import annotations

import json
from typing import Any

import openai
from pydantic import BaseModel, Field
from uses import API_KEY, BASE_URL, CITY, MODEL, TOO_LONG, WEATHER, busy, raises, run, use

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY)
asked: list[Any] = [{"role": "user", "content": WEATHER}]
function = {"name": "get_weather", "description": "Tells the weather of a city.", "parameters": CITY, "strict": True}
tools: list[Any] = [{"type": "function", "function": function}]


class City(BaseModel):
    city: str = Field(max_length=20)


@use
def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}], temperature=0)
    assert answer.choices[0].message.content and answer.usage.total_tokens
    assert MODEL in [model.id for model in client.models.list()]


@use
def stream() -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    with client.chat.completions.stream(model=MODEL, messages=messages, temperature=0) as events:
        pieces = [event.delta for event in events if event.type == "content.delta"]
        assert "".join(pieces) == events.get_final_completion().choices[0].message.content


@use
def tool_loop() -> None:
    messages = list(asked)
    first = client.chat.completions.parse(model=MODEL, messages=messages, tools=tools, tool_choice="required")
    message = first.choices[0].message
    call = message.tool_calls[0]
    assert set(call.function.parsed_arguments) == {"city"}
    # As the SDK's own documentation does it: the message object itself goes back.
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    final = client.chat.completions.create(model=MODEL, messages=messages, tools=tools, temperature=0)
    assert final.choices[0].message.content


@use
def tool_loop_of_dumped_messages() -> None:
    first = client.chat.completions.create(model=MODEL, messages=asked, tools=tools, tool_choice="required")
    message = first.choices[0].message.model_dump()
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    final = client.chat.completions.create(model=MODEL, messages=[*asked, message, result], tools=tools, temperature=0)
    assert final.choices[0].message.content


@use
def structured() -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=asked, response_format=City, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, City)


@use
def completions() -> None:
    answer = client.completions.create(model=MODEL, prompt="one two", max_tokens=4, logprobs=1, echo=True)
    assert answer.choices[0].text.startswith("one two") and answer.choices[0].logprobs


@use
def responses() -> None:
    answer = client.responses.create(model=MODEL, input="hello", temperature=0)
    with client.responses.stream(model=MODEL, input="hello", temperature=0) as events:
        events.until_done()
        assert events.get_final_response().output_text == answer.output_text


@use
def responses_tool_loop() -> None:
    items: list[Any] = list(asked)
    flat: list[Any] = [{"type": "function", **function}]
    answer = client.responses.create(model=MODEL, input=items, tools=flat, tool_choice="required")
    call = answer.output[-1]
    assert set(json.loads(call.arguments)) == {"city"}
    items += [*answer.output, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    assert client.responses.create(model=MODEL, input=items, tools=flat, temperature=0).output_text


@use
def responses_continued() -> None:
    first = client.responses.create(model=MODEL, input="hello", temperature=0)
    second = client.responses.create(model=MODEL, input=WEATHER, previous_response_id=first.id, temperature=0)
    assert second.usage.input_tokens > first.usage.total_tokens
    assert client.responses.retrieve(second.id).output_text == second.output_text


@use
def responses_structured() -> None:
    answer = client.responses.parse(model=MODEL, input=WEATHER, text_format=City, temperature=0)
    assert isinstance(answer.output_parsed, City)


@use
async def asynchronous() -> None:
    async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as other:
        events = await other.chat.completions.create(model=MODEL, messages=asked, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in events if chunk.choices])


@use
def errors() -> None:
    raises(openai.NotFoundError, lambda: client.chat.completions.create(model="x", messages=asked))
    raises(openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=asked, temperature=-1))
    raises(openai.AuthenticationError, lambda: client.with_options(api_key="wrong").models.list())
    raises(openai.BadRequestError, lambda: client.responses.create(model=MODEL, input=TOO_LONG))


@use
def retries() -> None:
    with busy() as url:
        answer = client.with_options(base_url=url).chat.completions.create(model=MODEL, messages=asked, max_tokens=5)
        assert answer.choices[0].message.content


run()
