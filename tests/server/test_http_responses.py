"""/v1/responses over HTTP: the official client, OpenAI's order of events, streams equal to complete answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, Field, TypeAdapter

from qwartet import LLM
from qwartet.openai_api.response_store import ResponseStore
from qwartet.server.access import Access
from qwartet.server.limits import Limits
from tests.server.running_server import MODEL, RunningServer, wait_for

PATH = "/v1/responses"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": CITY,
        "strict": True,
    }
]
WEATHER = "What is the weather in Oslo?"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="module")
def server(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def stream(server: RunningServer, body: dict[str, Any]) -> list[Any]:
    """The events of a stream, each with its own name."""
    with httpx.stream("POST", server.url + PATH, json={**body, "stream": True}, timeout=60) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        blocks = [one for one in response.read().decode().split("\n\n") if one]
    found = []
    for block in blocks:
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def kinds(events: list[Any]) -> list[str]:
    """Their types without "response.", one for each run of deltas."""
    found = [event["type"].removeprefix("response.") for event in events]
    return [one for place, one in enumerate(found) if not place or one != found[place - 1]]


MESSAGE = [
    "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
    "output_item.done",
]  # fmt: skip
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


def test_the_events_of_a_text_come_in_openais_order(server: RunningServer) -> None:
    events = stream(server, {"input": "hello", "temperature": 0})
    assert kinds(events) == ["created", "in_progress", *MESSAGE, "completed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events:
        adapter.validate_json(json.dumps(event), strict=True)
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    assert events[2]["item"]["content"] == [] and events[2]["item"]["status"] == "in_progress"
    assert events[3]["part"]["text"] == ""


def test_the_events_of_a_call_come_in_openais_order(server: RunningServer) -> None:
    body = {"input": WEATHER, "temperature": 0, "tools": TOOLS, "tool_choice": "required"}
    events = stream(server, body)
    assert kinds(events) in (
        ["created", "in_progress", *MESSAGE, *CALL, "completed"],
        ["created", "in_progress", *CALL, "completed"],
    )
    added = [event for event in events if event["type"] == "response.output_item.added"][-1]
    assert added["item"]["name"] == "get_weather" and added["item"]["arguments"] == ""
    written = "".join(event["delta"] for event in events if event["type"].endswith("arguments.delta"))
    done = next(event for event in events if event["type"].endswith("arguments.done"))
    assert written == done["arguments"] == events[-1]["response"]["output"][-1]["arguments"]
    assert {event["item_id"] for event in events if "arguments" in event["type"]} == {added["item"]["id"]}


def test_an_answer_without_text_is_an_empty_message(server: RunningServer, llm: LLM) -> None:
    bias_to_end = {"input": "hello", "temperature": 0, "stop": ["H"]}
    events = stream(server, bias_to_end)
    without_delta = [one for one in MESSAGE if one != "output_text.delta"]
    assert kinds(events) == ["created", "in_progress", *without_delta, "completed"]
    whole = server.post(PATH, **bias_to_end).json()
    assert whole["output"][0]["content"][0]["text"] == events[-1]["response"]["output"][0]["content"][0]["text"] == ""


def comparable(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what is another one each time."""
    shown = {name: value for name, value in response.items() if name not in ("id", "created_at", "completed_at")}
    shown["output"] = [{**item, "id": "", "call_id": ""} for item in response["output"]]
    if response["usage"] is not None:
        shown["usage"] = {**response["usage"], "input_tokens_details": {}}
    return shown


bodies = st.fixed_dictionaries(
    {"max_output_tokens": st.integers(1, 40), "seed": st.integers(0, 2**32)},
    optional={"temperature": st.sampled_from([0, 0.7, 1.5]), "stop": st.sampled_from([".", ["is", "a"], "，"])},
)
shapes = st.sampled_from(
    [{}, {"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}, {"tools": TOOLS},
     {"tools": TOOLS, "tool_choice": "required"}]
)  # fmt: skip


@given(body=bodies, shape=shapes, query=st.sampled_from(["hello", WEATHER, "Say ✨🎉 twice", "你好"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rel_15_the_events_of_a_response_together_are_its_whole_answer(
    server: RunningServer, body: dict[str, Any], shape: dict[str, Any], query: str
) -> None:
    body = {**body, **shape, "input": query}
    whole = server.post(PATH, **body).json()
    events = stream(server, body)
    assert comparable(events[-1]["response"]) == comparable(whole)
    assert events[-1]["type"] == f"response.{whole['status']}"
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    for place, item in enumerate(done):
        deltas = [event for event in events if event.get("delta") and event["output_index"] == place]
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert "".join(event["delta"] for event in deltas) == text
        assert {event["item_id"] for event in deltas} <= {item["id"]}


def test_the_official_client_asks_and_streams(client: openai.OpenAI, server: RunningServer) -> None:
    answer = client.responses.create(model=MODEL, input="hello", temperature=0)
    assert answer.output_text == server.llm.chat("hello", do_sample=False)[0]
    with client.responses.stream(model=MODEL, input="hello", temperature=0) as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == events.get_final_response().output_text == answer.output_text


def test_the_official_client_parses_a_text_and_the_arguments_of_a_call(client: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: str = Field(max_length=20)

    answer = client.responses.parse(
        model=MODEL, input="Name a city.", text_format=Weather, temperature=0, max_output_tokens=100
    )  # fmt: skip
    assert isinstance(answer.output_parsed, Weather)
    with client.responses.stream(
        model=MODEL, input=WEATHER, tools=[openai.pydantic_function_tool(Weather)["function"] | {"type": "function"}],  # type: ignore[list-item, operator]
        tool_choice="required", temperature=0, max_output_tokens=100,
    ) as events:  # fmt: skip
        call = events.get_final_response().output[-1]
    assert call.type == "function_call" and set(call.parsed_arguments) == {"city"}  # type: ignore[call-overload]


def test_the_official_client_sends_back_what_it_got(client: openai.OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": WEATHER}]
    answer = client.responses.parse(model=MODEL, input=items, tools=TOOLS, tool_choice="required", temperature=0)
    call = answer.output[-1]
    assert call.type == "function_call"
    items += [*answer.output, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    final = client.responses.create(model=MODEL, input=items, tools=TOOLS, temperature=0, max_output_tokens=60)
    assert final.output_text


# What is stored


def sent_again(llm: LLM, items: list[Any], **body: Any) -> dict[str, Any]:
    """The answer to a conversation whose items are all in the request."""
    with RunningServer(llm, limits=Limits(response_store_bytes=0)) as stateless:
        return dict(stateless.post(PATH, input=items, temperature=0, **body).json())


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_stored_response_can_be_continued(client: openai.OpenAI, llm: LLM, is_stream: bool) -> None:
    asked: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 30}
    if is_stream:
        with client.responses.stream(input="hello", instructions="Be brief.", **asked) as events:
            first: Any = events.get_final_response()
    else:
        first = client.responses.create(input="hello", instructions="Be brief.", **asked)
    second = client.responses.create(input="And you?", previous_response_id=first.id, **asked)
    third = client.responses.create(input="Thanks!", previous_response_id=second.id, **asked)
    items: list[Any] = [{"role": "user", "content": "hello"}, *(item.to_dict() for item in first.output)]
    items.append({"role": "user", "content": "And you?"})
    assert sent_again(llm, items, max_output_tokens=30)["usage"]["input_tokens"] == second.usage.input_tokens
    items += [*(item.to_dict() for item in second.output), {"role": "user", "content": "Thanks!"}]
    whole = sent_again(llm, items, max_output_tokens=30)
    assert whole["output"][0]["content"][0]["text"] == third.output_text
    assert whole["usage"]["input_tokens"] == third.usage.input_tokens, "instructions are not carried on"
    assert third.previous_response_id == second.id and third.to_dict()["store"] is True


def test_items_of_stored_responses_can_be_named(server: RunningServer, llm: LLM) -> None:
    """As the AI SDK does between the steps of an agent."""
    body = {"temperature": 0, "tools": TOOLS, "max_output_tokens": 60}
    first = server.post(PATH, input=WEATHER, tool_choice="required", **body).json()
    question, call = {"role": "user", "content": WEATHER}, first["output"][-1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    names = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    whole = sent_again(llm, [question, *first["output"], result], tools=TOOLS, max_output_tokens=60)
    for named in (names, [{"id": one["id"]} for one in names]):
        found = server.post(PATH, input=[question, *named, result], **body).json()
        assert found["output"][-1]["content"] == whole["output"][-1]["content"]
    twice = server.post(PATH, input=[question, *names, *names, result], **body)
    assert twice.status_code == 400 and "referenced twice" in twice.json()["error"]["message"]
    by_response = server.post(PATH, input=[result], previous_response_id=first["id"], **body).json()
    assert by_response["output"][-1]["content"] == whole["output"][-1]["content"]


def test_a_stored_response_can_be_read_and_forgotten(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="hello", metadata={"a": "b"})
    assert client.responses.retrieve(answer.id).to_dict() == answer.to_dict()
    client.responses.delete(answer.id)
    for work in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="not found"):
            work(answer.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="and?", previous_response_id=answer.id)
    assert refused.value.code == "previous_response_not_found" and refused.value.param == "previous_response_id"


@pytest.mark.parametrize("case", ["store is false", "no store", "cut off"])
def test_what_is_not_stored_is_not_found(llm: LLM, case: str) -> None:
    with RunningServer(llm, limits=Limits(response_store_bytes=0 if case == "no store" else 1 << 20)) as server:
        if case == "cut off":
            body = {"input": "hello", "max_output_tokens": 1500, "temperature": 2, "stream": True}
            with httpx.stream("POST", server.url + PATH, json=body) as response:
                event = next(line for line in response.iter_lines() if line.startswith("data: "))
            found = json.loads(event.removeprefix("data: "))["response"]
            wait_for(server.is_idle)
        else:
            found = server.post(PATH, input="hello", max_output_tokens=2, store=case == "no store").json()
            assert found["store"] is False
        assert server.get(f"{PATH}/{found['id']}").status_code == 404


def test_sec_16_one_key_does_not_find_what_another_one_stored(llm: LLM) -> None:
    keys = ["first-key-0123456789", "second-key-012345678"]
    first, second = ({"authorization": f"Bearer {key}"} for key in keys)
    with RunningServer(llm, access=Access(api_keys=keys)) as server:
        stored = server.post(PATH, headers=first, input="hello", max_output_tokens=2).json()
        item = [{"type": "item_reference", "id": stored["output"][0]["id"]}]
        assert server.get(f"{PATH}/{stored['id']}", headers=first).status_code == 200
        assert server.get(f"{PATH}/{stored['id']}", headers=second).status_code == 404
        assert server.post(PATH, headers=first, input=item, max_output_tokens=2).status_code == 200
        assert server.post(PATH, headers=second, input=item).status_code == 400
        assert server.post(PATH, headers=second, input="x", previous_response_id=stored["id"]).status_code == 400
        assert httpx.delete(f"{server.url}{PATH}/{stored['id']}", headers=second).status_code == 404


def test_a_long_stored_conversation_is_read_beside_the_event_loop(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunningServer(llm) as server:
        threads, resolve = [], ResponseStore.resolve

        def noted(*given: Any) -> None:
            threads.append(threading.current_thread().name)
            resolve(*given)

        monkeypatch.setattr(ResponseStore, "resolve", noted)
        assert server.post(PATH, input="hello", max_output_tokens=1).status_code == 200
    assert threads and threads[0].startswith("qwartet-tokenize")


def test_the_oldest_responses_make_room_and_the_memory_is_bounded(llm: LLM) -> None:
    with RunningServer(llm, limits=Limits(response_store_bytes=20_000)) as server:
        found = [server.post(PATH, input="hello " * 100, max_output_tokens=2).json()["id"] for _ in range(12)]
        there = [server.get(f"{PATH}/{one}").status_code == 200 for one in found]
        assert there == sorted(there) and 0 < sum(there) < 12, "a first part has gone"
        assert server.post(PATH, input="hello", max_output_tokens=2, user="y" * 20_000).status_code == 200
        assert server.get(f"{PATH}/{found[-1]}").status_code == 200, "one that is too large pushes no other one out"
        for one in found:
            httpx.delete(f"{server.url}{PATH}/{one}")
        store = server.service.any_endpoints.responses
        assert not store._entries and not store._owners and store._num_bytes == 0


def test_a_stream_that_breaks_off_ends_with_response_failed(llm: LLM) -> None:
    body = {"input": "hello", "stop": None, "max_output_tokens": 1500, "temperature": 0, "stream": True}
    with (
        RunningServer(llm, limits=Limits(request_timeout_s=0.2)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        run = llm.engine.runner.run

        def slow(*arguments: Any) -> Any:
            threading.Event().wait(0.1)
            return run(*arguments)

        patch.setattr(llm.engine.runner, "run", slow)
        events = stream(server, body)
        wait_for(server.is_idle)
    failed = events[-1]["response"]
    assert events[-1]["type"] == "response.failed" and failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error" and "0.2 s" in failed["error"]["message"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    said = "".join(event.get("delta", "") for event in events)
    assert said == "".join(item["content"][0]["text"] for item in failed["output"])


def test_who_leaves_a_stream_leaves_nothing_behind(server: RunningServer) -> None:
    body = {"input": "hello", "max_output_tokens": 1500, "temperature": 2, "stream": True}
    aborted = server.metric("qwartet_aborts_total", reason="disconnect")
    with httpx.stream("POST", server.url + PATH, json=body) as response:
        next(response.iter_raw())
    wait_for(server.is_idle)
    assert server.metric("qwartet_aborts_total", reason="disconnect") in (aborted, aborted + 1)


def test_keys_limits_and_metrics_hold_as_for_the_chat(llm: LLM) -> None:
    limits, access = Limits(max_body_bytes=4000), Access(api_keys=["a-key-of-some-length"])
    with RunningServer(llm, limits=limits, access=access) as server:
        assert server.post(PATH, input="hello").status_code == 401
        assert server.get(f"{PATH}/resp_1").status_code == 401
        key = {"authorization": "Bearer a-key-of-some-length"}
        assert server.post(PATH, headers=key, input="x" * 5000).status_code == 413
        assert server.post(PATH, headers=key, input="hello", max_output_tokens=2).status_code == 200
        # Counted once the answer is sent; the client has it a moment before.
        counted = server.service.metrics.completions.labels("length")._value
        wait_for(lambda: counted.get() == 1)


@pytest.mark.parametrize("place", ["instructions", "input", "description", "metadata", "user", "output"])
def test_half_a_surrogate_pair_is_answered_or_refused(server: RunningServer, place: str) -> None:
    half = "a\ud800b"
    body: dict[str, Any] = {"input": "hello", "max_output_tokens": 2}
    if place == "description":
        body["tools"] = [{**TOOLS[0], "description": half}]
    elif place == "output":
        call = {"type": "function_call", "call_id": "1", "name": "get_weather", "arguments": half}
        body["input"] = [
            {"role": "user", "content": half}, call, {"type": "function_call_output", "call_id": "1", "output": half},
        ]  # fmt: skip
    else:
        body[place] = {"a": half} if place == "metadata" else half
    for is_stream in (False, True):
        raw = json.dumps({**body, "stream": is_stream}).encode()
        answer = httpx.post(server.url + PATH, content=raw, headers={"content-type": "application/json"}, timeout=60)
        assert answer.status_code == 200
        assert (b"response.incomplete" if is_stream else b'"status":"incomplete"') in answer.content
