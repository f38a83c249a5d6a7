"""Extra fields that clients send: SDK fields in messages and tools, nulls, empty lists, hints without effect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qwartet import LLM
from qwartet.engine.async_engine import AsyncEngine
from qwartet.openai_api.endpoints import CHAT_PATH, COMPLETION_PATH, Endpoints
from qwartet.openai_api.error import ApiError, validated
from qwartet.openai_api.object import REFUSED_FIELDS
from qwartet.openai_api.prepare import Prepared, prepare_chat, prepare_completion
from qwartet.openai_api.protocol import ChatCompletionRequest, CompletionRequest
from qwartet.openai_api.token_ids import tokenize, tokenizer_info

HALF = "\ud800"
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "Hello"}
ROUND = [
    {"role": "system", "content": "Be kind."},
    USER,
    {"role": "assistant", "content": "Thinking.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    {"role": "assistant", "content": "It is done."},
    {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


def prepared(llm: LLM, **body: Any) -> Prepared:
    return prepare_chat(llm, validated(ChatCompletionRequest, {"messages": [USER], **body}))


def error_of(llm: LLM, **body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        prepared(llm, **body)
    return caught.value


UNDECLARED: dict[str, list[Any]] = {
    "parsed": [None, {"city": "Oslo"}],
    "annotations": [[], [{"type": "url_citation"}]],
    "audio": [None, {"id": "audio_1"}],
    "reasoning_content": ["I think."],
    "provider_specific_fields": [{"a": 1}],
    "cache_control": [{"type": "ephemeral"}],
    "index": [0],
    "parsed_arguments": [{"a": 1}],
    "strict": [True, None],
    "name": ["Rosa", HALF],
    "recipient": ["all"],
    "function_call": [None],
    "tool_calls": [None, []],
    "refusal": [None],
    "images": [None, [], ""],
    "partial": [False],
    "system": ["a field called like a role"],
    "assistant": [{"content": "and another"}],
    HALF: [HALF],
}


def places(body: Any) -> list[dict[str, Any]]:
    """Every message, part, call, function and tool of a body."""
    inner: list[dict[str, Any]] = []
    for message in body["messages"]:
        parts = message["content"] if isinstance(message.get("content"), list) else []
        inner += [message, *parts]
        for call in message.get("tool_calls", ()):
            inner += [call, call["function"]]
    return inner + [one for tool in body["tools"] for one in (tool, tool["function"])]


@pytest.mark.parametrize("field", UNDECLARED, ids=ascii)
def test_what_is_not_declared_inside_of_a_request_has_no_effect(llm: LLM, field: str) -> None:
    body = {"messages": ROUND, "tools": [TOOL]}
    expected = prepared(llm, **body)
    for value in UNDECLARED[field]:
        for place in range(len(places(body))):
            changed = json.loads(json.dumps(body))
            one = places(changed)[place]
            if field in one:
                continue
            # `strict` and `name` mean something where they are declared.
            if field in ("strict", "name") and "parameters" in one:
                continue
            one[field] = value
            found = prepared(llm, **changed)
            assert (found.prompts, found.params) == (expected.prompts, expected.params), (one, field)


@pytest.mark.parametrize("field", sorted(REFUSED_FIELDS.keys() - {"audio"}))
def test_what_would_change_the_answer_is_refused_by_its_name_wherever_it_stands(llm: LLM, field: str) -> None:
    body = {"messages": ROUND, "tools": [TOOL]}
    for place in range(len(places(body))):
        changed = json.loads(json.dumps(body))
        places(changed)[place][field] = {"a": 1}
        error = error_of(llm, **changed)
        assert error.status == 400 and str(error.param).endswith(f".{field}")
        assert REFUSED_FIELDS[field].partition(";")[0] in error.message and "leave it out" in error.message
    assert error_of(llm, **{field: [1]}).param == field


TOP_LEVEL: list[dict[str, Any]] = [
    {"modalities": ["text"]}, {"modalities": []}, {"prediction": {"type": "content", "content": "x"}},
    {"store": False}, {"store": True}, {"metadata": {}}, {"metadata": {"a": HALF}}, {"user": HALF},
    {"service_tier": "auto"}, {"prompt_cache_retention": "24h"}, {"prompt_cache_options": {"mode": "implicit"}},
    {"verbosity": "low"}, {"reasoning_effort": "none"}, {"n": 1}, {"tools": []}, {"tools": [], "tool_choice": "auto"},
    {"functions": []}, {"functions": [], "function_call": "none"}, {"logit_bias": {}}, {"stop": []},
    {"stop_token_ids": []}, {"response_format": {"type": "text"}}, {"logprobs": False}, {"top_logprobs": 0},
    {"parallel_tool_calls": True}, {"use_beam_search": False}, {"length_penalty": 1}, {"add_special_tokens": True},
    {"stream_options": None}, {"response_format": {"type": "text", "json_schema": None, "x": None}},
]  # fmt: skip


@pytest.mark.parametrize("fields", TOP_LEVEL, ids=ascii)
def test_what_changes_nothing_at_the_top_level_is_taken(llm: LLM, fields: dict[str, Any]) -> None:
    assert prepared(llm, **fields) == prepared(llm)


@pytest.mark.parametrize(
    "field", [*ChatCompletionRequest.model_fields, *REFUSED_FIELDS, "some_new_field", HALF], ids=ascii
)
def test_null_is_not_given(llm: LLM, field: str) -> None:
    if field != "messages":
        assert prepared(llm, **{field: None}) == prepared(llm)


@pytest.mark.parametrize("field", [field for field in CompletionRequest.model_fields if field != "prompt"])
def test_null_is_not_given_to_a_completion_either(llm: LLM, field: str) -> None:
    plain = prepare_completion(llm, validated(CompletionRequest, {"prompt": "a"}))
    assert prepare_completion(llm, validated(CompletionRequest, {"prompt": "a", field: None})) == plain


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"modalities": ["text", "audio"]}, "modalities.1"), ({"audio": {"voice": "a"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"), ({"moderation": {"model": "x"}}, "moderation"),
    ({"use_beam_search": True}, "use_beam_search"), ({"length_penalty": 2}, "length_penalty"),
    ({"return_token_ids": True}, "return_token_ids"), ({"temprature": 1}, "temprature"),
    ({"response_format": {"type": "text", "x": 1}}, "response_format.x"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"messages": [{"role": "user", "user": 1}]}, "messages.0.content"),
    ({"messages": [{"role": "assistant", "content": [{"type": "file"}]}]}, "messages.0.content.0.type"),
    ({"messages": None}, "messages"), ({"messages": [None]}, "messages.0"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=ascii)
def test_what_is_wrong_at_the_top_level_is_named(llm: LLM, fields: dict[str, Any], param: str) -> None:
    error = error_of(llm, **fields)
    assert (error.status, error.param) == (400, param)


def test_what_an_assistant_refused_is_what_it_said(llm: LLM) -> None:
    def asked(**message: Any) -> Any:
        return prepared(llm, messages=[USER, {"role": "assistant", **message}, USER]).prompts

    expected = asked(content="I cannot.")
    assert asked(content=None, refusal="I cannot.") == expected
    assert asked(content=[{"type": "text", "text": "I "}, {"type": "refusal", "refusal": "cannot."}]) == expected


def called(name: str = "f", arguments: str = "{}", call_id: str = "a", result: str = "x") -> dict[str, Any]:
    call = {"id": call_id, "function": {"name": name, "arguments": arguments}}
    answer = {"role": "tool", "tool_call_id": call_id, "content": result}
    return {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, answer]}


def legacy() -> dict[str, Any]:
    call = {"role": "assistant", "content": HALF, "function_call": {"name": "f", "arguments": HALF}}
    return {"messages": [USER, call, {"role": "function", "name": "f", "content": HALF}]}


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


def form(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, **more}}}


HALVES: dict[str, dict[str, Any]] = {
    "content": {"messages": [{"role": "user", "content": HALF}]},
    "part": {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
    "system": {"messages": [{"role": "system", "content": HALF}, {"role": "developer", "content": HALF}, USER]},
    "refusal": {"messages": [USER, {"role": "assistant", "content": None, "refusal": HALF}, USER]},
    "arguments": called(arguments=HALF, result=HALF),
    "called name": called(name=HALF),
    "call id": called(call_id=HALF),
    "function result": legacy(),
    "description": tool(description=HALF),
    "tool name": tool(name=HALF),
    "human name": {"functions": [{"name_for_model": "f", "name_for_human": HALF}]},
    "description for model": {"functions": [{"name": "f", "description_for_model": HALF}]},
    "property": tool(parameters={"properties": {HALF: {}}}),
    "enum of a tool": tool(parameters={"properties": {"a": {"enum": [HALF]}}}),
    "parameter list": {"functions": [{"name": "f", "parameters": [{"name": HALF}]}]},
    "tool choice": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": HALF}}},
    "stop": {"stop": HALF},
    "stops": {"stop": [HALF]},
    "user": {"user": HALF},
    "metadata": {"metadata": {HALF: HALF}},
    "model": {"model": HALF},
    "logit_bias": {"logit_bias": {HALF: 1}},
    "service tier": {"service_tier": HALF},
    "schema": form({"enum": [HALF]}),
    "schema name": form({"type": "null"}, name=HALF),
    "schema description": form({"type": "null"}, description=HALF),
    "property of a schema": form({"properties": {HALF: {}}}),
    "format of a schema": form({"type": "string", "format": HALF}),
    "guided_json": {"guided_json": {"const": HALF}},
    "guided_regex": {"guided_regex": HALF},
    "guided_choice": {"guided_choice": [HALF]},
    "structured_outputs": {"structured_outputs": {"regex": HALF}},
    "prediction": {"prediction": {"type": "content", "content": HALF}},
    "field": {HALF: 1},
}


def test_half_a_surrogate_pair_in_any_text_is_answered_or_refused_never_a_failure_of_ours(llm: LLM) -> None:
    async def main() -> list[Any]:
        async with AsyncEngine(llm.engine) as engine:
            endpoints = Endpoints(llm, engine, ["demo"])
            chats = [
                endpoints.answer(CHAT_PATH, {"messages": [USER], "max_tokens": 2, **body}) for body in HALVES.values()
            ]
            texts = [
                endpoints.answer(COMPLETION_PATH, {"max_tokens": 2, **body})
                for body in ({"prompt": HALF}, {"prompt": ["a", HALF]}, {"prompt": HALF, "echo": True, "logprobs": 1})
            ]
            return await asyncio.gather(*chats, *texts, return_exceptions=True)

    for name, one in zip([*HALVES, "prompt", "prompts", "echo"], asyncio.run(main()), strict=True):
        status = one.status if isinstance(one, ApiError) else 200 if isinstance(one, dict) else repr(one)
        assert status in (200, 400, 404), name
        json.dumps(one.to_dict() if isinstance(one, ApiError) else one, ensure_ascii=False).encode("utf-8", "replace")
        if name in ("content", "description", "arguments", "human name", "prompt", "user"):
            assert status == 200, name


def test_tokenize_takes_what_vllm_takes_and_counts_tools(llm: LLM) -> None:
    endpoints = Endpoints(llm, AsyncEngine(llm.engine), ["demo"])
    for value in (True, False, None):
        assert tokenize(endpoints, {"prompt": "a b", "add_special_tokens": value})["tokens"] == llm.tokenizer.encode(
            "a b"
        )
    for body in ({"messages": ROUND}, {"messages": [USER], "tools": [TOOL]}, {"messages": [USER], "tools": []}):
        chat = {**body, "add_special_tokens": False, "continue_final_message": False}
        assert tokenize(endpoints, chat)["tokens"] == prepared(llm, **body).prompts[0]


def test_what_is_said_of_the_tokenizer_is_true(llm: LLM) -> None:
    info = tokenizer_info(Endpoints(llm, AsyncEngine(llm.engine), ["demo"]))
    assert llm.tokenizer.decode([info["eos_token_id"]]) == info["eos_token"]
    assert info["vocab_size"] == llm.tokenizer.num_tokens and info["model_max_length"] == llm.engine.max_model_len
    assert "im_start" in info["chat_template"] and "/" not in json.dumps(info).replace("\\n", "")
