"""OpenAI's client reads thinking and calls of a scripted Qwen3 from a real server, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from qwartet import LLM
from tests.families.scripted import load, scripted, write_model
from tests.server.running_server import MODEL, RunningServer
from tests.tokenizer.own_templates import THINKING

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY, "strict": True}},
    {"type": "function", "function": {"name": "get_time"}},
]
ASKED: Any = [{"role": "user", "content": "Weather and time?"}]
SAID = (
    "<think>\nBoth, then.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
)
CALLS = [("get_weather", '{"city": "Oslo"}'), ("get_time", "{}")]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return load(write_model(tmp_path_factory.mktemp("qwen3") / "model", THINKING))


@pytest.fixture(scope="module")
def client(llm: LLM) -> Iterator[openai.OpenAI]:
    with RunningServer(llm) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_chat_has_reasoning_content_and_calls(llm: LLM, client: openai.OpenAI) -> None:
    with scripted(llm, SAID):
        [choice] = client.chat.completions.create(model=MODEL, messages=ASKED, tools=TOOLS).choices
    said = choice.message
    assert choice.finish_reason == "tool_calls"
    assert said.content == "I look." and said.model_extra == {"reasoning_content": "Both, then."}
    assert [(one.function.name, one.function.arguments) for one in said.tool_calls or ()] == CALLS  # type: ignore[union-attr]
    results: Any = [{"role": "tool", "tool_call_id": one.id, "content": "ok"} for one in said.tool_calls or ()]
    with scripted(llm, "<think>\nGood.\n</think>\n\nDone."):
        messages: Any = [*ASKED, said, *results]
        [choice] = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices
    assert choice.message.content == "Done."


def test_a_stream_adds_up_to_the_same(llm: LLM, client: openai.OpenAI) -> None:
    reasoning = ""
    with scripted(llm, SAID), client.chat.completions.stream(model=MODEL, messages=ASKED, tools=TOOLS) as stream:
        for event in stream:
            if event.type == "chunk" and event.chunk.choices:
                reasoning += (event.chunk.choices[0].delta.model_extra or {}).get("reasoning_content", "")
        [choice] = stream.get_final_completion().choices
    assert reasoning == "Both, then." and choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert [(one.function.name, one.function.arguments) for one in choice.message.tool_calls or ()] == CALLS
    parsed = [one.function.parsed_arguments for one in choice.message.tool_calls or ()]
    assert parsed[0] == {"city": "Oslo"}


def test_usage_of_a_stream_counts_the_thinking(llm: LLM, client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with scripted(llm, SAID):
        chunks = list(client.chat.completions.create(model=MODEL, messages=ASKED, stream=True, stream_options=options))
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens_details is not None
    assert 0 < (chunks[-1].usage.completion_tokens_details.reasoning_tokens or 0) < chunks[-1].usage.completion_tokens


def test_responses_stream_reasoning_text_and_calls(llm: LLM, client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", **one["function"]} for one in TOOLS]
    kinds = []
    with scripted(llm, SAID), client.responses.stream(model=MODEL, input="Weather and time?", tools=tools) as stream:
        for event in stream:
            kinds.append(event.type)
        response = stream.get_final_response()
    assert kinds.count("response.reasoning_text.done") == 1
    assert kinds.index("response.reasoning_text.delta") < kinds.index("response.output_text.delta")
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert response.output_text == "I look." and response.output[0].content[0].text == "Both, then."  # type: ignore
    calls = [(item.name, item.arguments) for item in response.output if item.type == "function_call"]
    assert calls == CALLS
    results: Any = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "ok"}
        for item in response.output
        if item.type == "function_call"
    ]
    with scripted(llm, "<think>\n\n</think>\n\nDone."):
        again = client.responses.create(model=MODEL, input=results, previous_response_id=response.id, tools=tools)
    assert again.output_text == "Done." and [item.type for item in again.output] == ["message"]


def test_thinking_is_switched_by_the_template_s_setting(llm: LLM, client: openai.OpenAI) -> None:
    with scripted(llm, "Hello"):
        off: Any = {"chat_template_kwargs": {"enable_thinking": False}}
        [choice] = client.chat.completions.create(model=MODEL, messages=ASKED, extra_body=off).choices
    assert choice.message.content == "Hello" and not choice.message.model_extra
    with pytest.raises(openai.BadRequestError, match=r"unsupported field 'chat_template_kwargs\.thinking'"):
        client.chat.completions.create(
            model=MODEL, messages=ASKED, extra_body={"chat_template_kwargs": {"thinking": True}}
        )
    assert client.models.retrieve(MODEL).model_extra["thinking"] == "optional"  # type: ignore[index]


def test_the_prompt_that_is_tokenized_has_the_setting(llm: LLM, client: openai.OpenAI) -> None:
    url = str(client.base_url).replace("/v1/", "/tokenize")
    body = {"messages": ASKED, "chat_template_kwargs": {"enable_thinking": False}}
    found = json.loads(client._client.post(url, json=body).content)
    assert found["tokens"] == llm.prompt_ids(ASKED, enable_thinking=False)
