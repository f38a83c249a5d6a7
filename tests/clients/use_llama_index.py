"""llama-index: OpenAILike, the class for servers like this one, and OpenAI's own for the Responses API."""

from __future__ import annotations

from typing import Any

import openai
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
from pydantic import BaseModel, Field
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, raises, run, run_example, use

where: dict[str, Any] = {
    "model": MODEL, "api_base": BASE_URL, "api_key": API_KEY, "is_chat_model": True, "temperature": 0.0,
    "is_function_calling_model": True, "context_window": 2048, "max_tokens": 100,
}  # fmt: skip
llm = OpenAILike(**where)


class City(BaseModel):
    """A city."""

    city: str = Field(max_length=20)


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


weather = FunctionTool.from_defaults(get_weather)


@use
def chat() -> None:
    assert llm.chat([ChatMessage(role="system", content="Be brief."), ChatMessage("hello")]).message.content


@use
def stream() -> None:
    assert "".join(piece.delta or "" for piece in llm.stream_chat([ChatMessage("hello")]))


@use
def completions() -> None:
    assert llm.complete("one two").text
    assert OpenAILike(**{**where, "is_chat_model": False}).complete("one two").text


@use
def tools() -> None:
    answer = llm.chat_with_tools([weather], user_msg=WEATHER, tool_required=True)
    assert set(llm.get_tool_calls_from_response(answer)[0].tool_kwargs) == {"city"}


@use
async def agent() -> None:
    found = await FunctionAgent(tools=[weather], llm=llm, streaming=True).run(WEATHER, max_iterations=3)
    assert str(found)


@use
def structured() -> None:
    program = FunctionCallingProgram.from_defaults(output_cls=City, prompt_template_str="{question}", llm=llm)
    assert isinstance(program(question=WEATHER), City)
    strict = OpenAILike(**{**where, "should_use_structured_outputs": True})
    assert isinstance(strict.as_structured_llm(City).chat([ChatMessage(WEATHER)]).raw, City)


@use
def responses() -> None:
    other = OpenAILikeResponses(**{key: value for key, value in where.items() if key != "max_tokens"})
    assert other.chat([ChatMessage("hello")]).message.content
    assert "".join(piece.delta or "" for piece in other.stream_chat([ChatMessage("hello")]))


@use
def errors() -> None:
    raises(openai.NotFoundError, lambda: OpenAILike(**{**where, "model": "x"}).chat([ChatMessage("hello")]))


@use
def retries() -> None:
    with busy() as url:
        assert OpenAILike(**{**where, "api_base": url}).chat([ChatMessage("hello")]).message.content


@use
def example() -> None:
    run_example("llama_index_chat.py")


run()
