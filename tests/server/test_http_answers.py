"""Answers over HTTP: the official client, streams equal to complete answers, the limits of the context."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwartet import LLM
from qwartet.openai_api import exchange
from tests.server.running_server import HELLO, MODEL, RunningServer, events, text_of


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(LLM(device="cpu")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_the_official_client_chats(client: openai.OpenAI, server: RunningServer) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == server.llm.chat("hello", do_sample=False)[0]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_official_client_streams(client: openai.OpenAI, server: RunningServer) -> None:
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model=MODEL, messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == server.llm.chat("hello", do_sample=False)[0]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0


def test_the_official_asynchronous_client_has_many_answers_at_once(server: RunningServer) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(query: str) -> str:
                messages: Any = [{"role": "user", "content": query}]
                answer = await client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
                return answer.choices[0].message.content or ""

            return await asyncio.gather(*(one(f"What is {number} + 3?") for number in range(12)))

    def alone(query: str) -> str:
        answer = server.chat(messages=[{"role": "user", "content": query}])
        return str(answer.json()["choices"][0]["message"]["content"])

    assert asyncio.run(main()) == [alone(f"What is {number} + 3?") for number in range(12)]


def test_the_official_client_completes_with_logprobs_of_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="one two three", max_tokens=0, echo=True, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == "one two three" and logprobs is not None
    assert logprobs.token_logprobs is not None and logprobs.token_logprobs[0] is None
    assert all(one is not None and one <= 0 for one in logprobs.token_logprobs[1:])


def test_the_official_client_gets_json_that_fits_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Invent a person."}], temperature=0, max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    )  # fmt: skip
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"name", "age"} and isinstance(found["age"], int)


def test_the_official_client_knows_each_failure(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="another", messages=HELLO)  # type: ignore[call-overload]
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)  # type: ignore[call-overload]
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"temprature": 1})  # type: ignore[call-overload]
    assert "did you mean temperature?" in str(unknown.value)


def test_models_are_listed(client: openai.OpenAI, server: RunningServer) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "qwartet"
    assert server.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] == server.llm.engine.max_model_len


def test_text_becomes_ids_and_ids_become_text(server: RunningServer) -> None:
    text = "你好, <|im_end|> world"
    found = server.post("/tokenize", prompt=text, return_token_strs=True).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert server.post("/detokenize", tokens=found["tokens"]).json() == {"prompt": text}
    chat = server.post("/tokenize", messages=HELLO).json()["tokens"]
    assert chat[0] == server.llm.tokenizer.im_start_id
    assert server.post("/detokenize", tokens=[10**9]).json()["error"]["param"] == "tokens"
    assert server.post("/tokenize").status_code == 400


bodies = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 24), "seed": st.integers(0, 2**32)},
    optional={
        "temperature": st.sampled_from([0, 0.7, 1.5]),
        "n": st.integers(1, 3),
        "top_p": st.sampled_from([0.5, 1.0]),
        "stop": st.sampled_from([".", ["is", "a"], "，"]),
        "min_tokens": st.integers(0, 5),
        "repetition_penalty": st.just(1.2),
    },
)


def stream(server: RunningServer, path: str, body: dict[str, Any]) -> list[Any]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", server.url + path, json={**body, **options}, timeout=60) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        found = events(response)
    assert found.pop() == "[DONE]"
    return found


@given(body=bodies, logprobs=st.sampled_from([None, 0, 2]), query=st.sampled_from(["hello", "你好", "Say ✨🎉 twice"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rel_15_the_chunks_of_a_chat_together_are_its_whole_answer(
    server: RunningServer, body: dict[str, Any], logprobs: int | None, query: str
) -> None:
    if body.get("min_tokens", 0) > body["max_tokens"]:
        del body["min_tokens"]
    body |= {"messages": [{"role": "user", "content": query}]}
    if logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": logprobs}
    whole = server.post("/v1/chat/completions", **body).json()
    chunks = stream(server, "/v1/chat/completions", body)
    for choice in whole["choices"]:
        of_choice = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert text_of(chunks, choice["index"]) == choice["message"]["content"]
        assert [one["finish_reason"] for one in of_choice if one["finish_reason"]] == [choice["finish_reason"]]
        told = [entry for one in of_choice for entry in (one["logprobs"] or {"content": []})["content"]]
        assert told == (choice["logprobs"] or {"content": []})["content"]
    usage = whole["usage"]
    assert {**chunks[-1]["usage"], "prompt_tokens_details": 0} == {**usage, "prompt_tokens_details": 0}


@given(body=bodies, logprobs=st.sampled_from([None, 0, 2]), echo=st.booleans(), num_prompts=st.integers(1, 2))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rel_15_the_chunks_of_a_completion_together_are_its_whole_answer(
    server: RunningServer, body: dict[str, Any], logprobs: int | None, echo: bool, num_prompts: int
) -> None:
    if body.get("min_tokens", 0) > body["max_tokens"]:
        del body["min_tokens"]
    body |= {"prompt": ["The capital of France", "一二三"][:num_prompts], "echo": echo}
    body |= {} if logprobs is None else {"logprobs": logprobs}
    whole = server.post("/v1/completions", **body).json()
    chunks = stream(server, "/v1/completions", body)
    for choice in whole["choices"]:
        of_choice = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert "".join(one["text"] for one in of_choice) == choice["text"]
        assert of_choice[-1]["finish_reason"] == choice["finish_reason"]
        for key in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            told = [entry for one in of_choice for entry in (one["logprobs"] or {key: []})[key]]
            assert told == (choice["logprobs"] or {key: []})[key], key
    assert chunks[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_a_whole_answer_with_much_to_tell_is_made_in_a_thread_of_its_own(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 20}
    threads, make = [], exchange.chat_completion

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return make(*given)

    monkeypatch.setattr(exchange, "chat_completion", noted)
    at_once = server.chat(**body).json()
    monkeypatch.setattr(exchange, "FIGURES_AT_ONCE", 20)
    in_thread = server.chat(**body).json()
    assert threads[0] == "test-server" and threads[1] != "test-server"
    assert in_thread["choices"] == at_once["choices"] and len(at_once["choices"][0]["logprobs"]["content"]) == 6


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "北京"]}}, "required": ["city"]},
        "strict": True,
    },
}


def test_the_official_client_puts_a_streamed_call_together(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL, "messages": [{"role": "user", "content": "How warm is it in Paris?"}], "tools": [WEATHER],
        "tool_choice": "required", "temperature": 0, "max_tokens": 60,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0]
    with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        choice = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
    assert choice.finish_reason == whole.finish_reason == "tool_calls"
    (call,), (expected,) = choice.message.tool_calls, whole.message.tool_calls
    assert call.function.name == expected.function.name == "get_weather"
    assert call.function.arguments == expected.function.arguments and call.id.startswith("call_")
    assert call.function.parsed_arguments["city"] in ("Paris", "北京")


def test_rel_14_no_piece_of_a_stream_ends_inside_a_character(server: RunningServer) -> None:
    text = "你好👩‍👩‍👧‍👦🎉é"
    body = {"messages": HELLO, "structured_outputs": {"choice": [text]}, "max_tokens": 60}
    chunks = stream(server, "/v1/chat/completions", body)
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == text


def test_rel_14_lone_surrogates_are_answered(server: RunningServer) -> None:
    raw = b'{"messages": [{"role": "user", "content": "\\ud800 hello"}], "max_tokens": 4, "model": "demo"}'
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code == 200
    named = raw.replace(b'"demo"', b'"\\udfff"')
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", content=named, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("beyond", "status"), [(-1, 200), (0, 400), (1, 400)])
def test_rel_17_a_prompt_may_fill_the_context_but_for_one_token(
    server: RunningServer, beyond: int, status: int
) -> None:
    length = server.llm.engine.max_model_len + beyond
    answer = server.post("/v1/completions", prompt=[100] * length, max_tokens=5)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        assert answer.json()["usage"]["completion_tokens"] == 1
    else:
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert str(length) in error["message"] and str(server.llm.engine.max_model_len) in error["message"]


def test_rel_17_no_tokens_and_one_token(server: RunningServer) -> None:
    assert server.chat(max_tokens=0).json()["error"]["param"] == "max_tokens"
    one = server.chat(max_tokens=1).json()
    assert one["usage"]["completion_tokens"] == 1 and one["choices"][0]["finish_reason"] == "length"


def test_rel_16_the_same_text_whatever_else_is_asked(server: RunningServer) -> None:
    body = {"messages": HELLO, "seed": 7, "temperature": 1.0, "max_tokens": 24}
    alone = server.post("/v1/chat/completions", **body).json()["choices"][0]["message"]["content"]

    async def main() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            others = [{"messages": HELLO, "seed": seed, "max_tokens": 12} for seed in range(9)]
            found = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=one) for one in [*others, body, *others])
            )
            return [one.json()["choices"][0]["message"]["content"] for one in found]

    assert asyncio.run(main())[9] == alone


def test_a_request_id_is_kept_where_it_is_harmless(server: RunningServer) -> None:
    assert server.get("/version", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert server.get("/version", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
