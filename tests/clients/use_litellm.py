"""litellm: one call for many providers; errors are mapped to classes that its fallbacks check."""

from __future__ import annotations

import json
from typing import Any

import litellm
from pydantic import BaseModel, Field
from uses import API_KEY, BASE_URL, CITY, MODEL, TOO_LONG, WEATHER, busy, raises, run, use

litellm.telemetry = False
where: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": API_KEY}
asked = [{"role": "user", "content": WEATHER}]
tools = [{"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": CITY}}]


class City(BaseModel):
    city: str = Field(max_length=20)


@use
def chat() -> None:
    answer = litellm.completion(messages=[{"role": "user", "content": "hello"}], temperature=0, **where)
    assert answer.choices[0].message.content and answer.usage.total_tokens


@use
def stream() -> None:
    chunks = list(litellm.completion(messages=asked, stream=True, stream_options={"include_usage": True}, **where))
    built = litellm.stream_chunk_builder(chunks, messages=asked)
    assert built.choices[0].message.content and built.usage.completion_tokens


@use
async def asynchronous() -> None:
    answer = await litellm.acompletion(messages=asked, max_tokens=5, **where)
    assert answer.choices[0].message.content


@use
def tool_loop() -> None:
    first = litellm.completion(messages=asked, tools=tools, tool_choice="required", **where)
    message = first.choices[0].message
    assert set(json.loads(message.tool_calls[0].function.arguments)) == {"city"}
    for sent_back in (message, message.model_dump()):
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "name": "get_weather", "content": "sunny"}
        final = litellm.completion(messages=[*asked, sent_back, result], tools=tools, temperature=0, **where)
        assert final.choices[0].message.content


@use
def structured() -> None:
    answer = litellm.completion(messages=asked, response_format=City, temperature=0, **where)
    City.model_validate_json(answer.choices[0].message.content)


@use
def completions() -> None:
    text_where = {**where, "model": f"text-completion-openai/{MODEL}"}
    assert litellm.text_completion(prompt="one two", max_tokens=4, **text_where).choices[0].text


@use
def responses() -> None:
    answer = litellm.responses(input="hello", temperature=0, **where)
    assert answer.output[0].content[0].text
    kinds = [event.type for event in litellm.responses(input="hello", stream=True, **where)]
    assert "response.completed" in [getattr(kind, "value", kind) for kind in kinds]


@use
def errors() -> None:
    wrong = {**where, "model": "openai/x"}
    raises(litellm.NotFoundError, lambda: litellm.completion(messages=asked, **wrong))
    raises(litellm.BadRequestError, lambda: litellm.completion(messages=asked, temperature=-1, **where))
    raises(litellm.AuthenticationError, lambda: litellm.completion(messages=asked, **{**where, "api_key": "wrong"}))


@use
def too_long_for_the_context() -> None:
    long = [{"role": "user", "content": TOO_LONG}]
    raises(litellm.ContextWindowExceededError, lambda: litellm.completion(messages=long, **where))


@use
def retries() -> None:
    with busy() as url:
        answer = litellm.completion(messages=asked, max_tokens=5, num_retries=3, **{**where, "api_base": url})
        assert answer.choices[0].message.content


run()
