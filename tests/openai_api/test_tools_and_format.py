"""Tools together with response_format: a call, or an answer in that format; schema formats that are only notes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qwartet import LLM
from qwartet.engine.async_engine import AsyncEngine
from qwartet.engine.constrain import ConstraintCompiler
from qwartet.engine.schema_formats import ENFORCED_FORMATS, unenforced_formats
from qwartet.engine.structure import Structure, ToolCalls
from qwartet.errors import StructureError
from qwartet.openai_api.endpoints import CHAT_PATH, Endpoints
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.prepare import prepare_chat
from qwartet.openai_api.protocol import ChatCompletionRequest
from qwartet.tokenizer.react_stream import parse_react

PLACE = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 10}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Tells the weather of a city.", "parameters": PLACE}
TOOLS = [{"type": "function", "function": WEATHER}]
STRICT = [{"type": "function", "function": WEATHER | {"strict": True}}]
ASKED = [{"role": "user", "content": "What is the weather in Oslo?"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
ROUND = [
    *ASKED,
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "x"},
]
SKY = {"type": "object", "properties": {"sky": {"enum": ["sunny", "grey"]}}, "required": ["sky"]}
FORM = {"type": "json_schema", "json_schema": {"name": "sky", "schema": SKY}}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="module")
def compiler(llm: LLM) -> ConstraintCompiler:
    return ConstraintCompiler(llm.tokenizer, llm.model.config.vocab_size)


def answers(llm: LLM, bodies: list[dict[str, Any]]) -> list[Any]:
    async def main() -> list[Any]:
        async with AsyncEngine(llm.engine) as engine:
            endpoints = Endpoints(llm, engine, ["demo"])
            asked = [endpoints.answer(CHAT_PATH, {"messages": ASKED, "max_tokens": 400, **body}) for body in bodies]
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(main())


FORMS: list[dict[str, Any]] = [
    {"response_format": FORM}, {"guided_choice": ["sunny", "grey"]}, {"guided_regex": "sun+y"},
    {"structured_outputs": {"json": SKY}},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: next(iter(form)))
def test_an_answer_is_a_call_or_has_the_form(llm: LLM, form: dict[str, Any]) -> None:
    bodies = [
        {**form, "tools": tools, "messages": messages, "seed": seed, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        for tools in (TOOLS, STRICT)
        for messages in (ASKED, ROUND)
        for seed in range(4)
    ]
    kinds = set()
    for body, answer in zip(bodies, answers(llm, bodies), strict=True):
        choice = answer["choices"][0]
        message = choice["message"]
        kinds.add(choice["finish_reason"])
        if choice["finish_reason"] == "tool_calls":
            call = message["tool_calls"][0]["function"]
            assert call["name"] == "get_weather"
            assert body["tools"] is TOOLS or list(json.loads(call["arguments"])) == ["city"]
        elif choice["finish_reason"] == "stop":
            content = message["content"]
            assert content in ("sunny", "grey") or content.startswith("sun") or json.loads(content)["sky"]
    assert "stop" in kinds or "tool_calls" in kinds


def test_both_ways_are_open_and_no_third_one(llm: LLM, compiler: ConstraintCompiler) -> None:
    for messages, opening in ((ASKED, "Thought: I know."), (ROUND, " I know.")):
        body = {"messages": messages, "tools": TOOLS, "response_format": FORM}
        params = prepare_chat(llm, ChatCompletionRequest.model_validate(body)).params
        assert params.structure is not None

        def is_whole(text: str, structure: Structure = params.structure) -> bool:
            state = compiler.compile(structure)
            try:
                for token_id in llm.tokenizer.encode(text):
                    state.accept(token_id)
            except StructureError:
                return False
            return state.is_complete

        assert is_whole(f'{opening}\nFinal Answer: {{"sky": "grey"}}')
        assert is_whole(f"{opening}\nAction: get_weather\nAction Input: anything")
        assert not is_whole(f"{opening}\nFinal Answer: grey")
        assert not is_whole(f"{opening}\nAction: get_time\nAction Input: {{}}")
        assert not is_whole("It is grey.")
        begins_in = "start" if messages is ASKED else "thought"
        assert parse_react(f'{opening}\nFinal Answer: {{"sky": "grey"}}', begins_in).text == '{"sky": "grey"}'


def test_a_call_that_is_required_needs_no_answer(llm: LLM) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        body = {"messages": ASKED, "tools": TOOLS, "tool_choice": choice}
        plain = prepare_chat(llm, ChatCompletionRequest.model_validate(body))
        both = prepare_chat(llm, ChatCompletionRequest.model_validate({**body, "response_format": FORM}))
        assert both.params == plain.params
    none = {"messages": ASKED, "tools": TOOLS, "tool_choice": "none", "response_format": FORM}
    found = prepare_chat(llm, ChatCompletionRequest.model_validate(none)).params.structure
    assert found == Structure(json_schema=SKY)


def test_whichever_schema_is_wrong_is_named(llm: LLM) -> None:
    wrong = {"properties": {"a": {"not": {}}}}
    bad_form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": wrong}}
    bad_tools = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": wrong}}]
    bad_functions = [{"name": "f", "parameters": wrong}]
    bodies: list[tuple[dict[str, Any], str]] = [
        ({"tools": TOOLS, "response_format": bad_form}, "response_format"),
        ({"tools": bad_tools, "response_format": FORM}, "tools"),
        ({"tools": bad_tools}, "tools"),
        ({"tools": TOOLS, "guided_json": wrong}, "guided_json"),
        ({"functions": bad_functions, "function_call": {"name": "f"}, "response_format": FORM}, "functions"),
        ({"tools": bad_tools, "tool_choice": "none", "response_format": bad_form}, "response_format"),
    ]
    for (_, param), error in zip(bodies, answers(llm, [body for body, _ in bodies]), strict=True):
        assert isinstance(error, ApiError) and (error.status, error.param) == (400, param)


# Formats


@pytest.mark.parametrize("name", sorted(ENFORCED_FORMATS - {"unknown"}))
def test_a_format_that_counts_as_enforced_is(llm: LLM, compiler: ConstraintCompiler, name: str) -> None:
    state = compiler.compile(Structure(json_schema={"type": "string", "format": name, "minLength": 0}))
    with pytest.raises(StructureError):
        for token_id in llm.tokenizer.encode('"certainly not: ###"'):
            state.accept(token_id)


def test_other_formats_stand_as_notes(compiler: ConstraintCompiler) -> None:
    schema = {
        "properties": {
            "format": {"type": "string", "format": "color"},
            "b": {"type": ["string", "null"], "format": "int64"},
            "c": {"type": "string", "format": "date"},
            "d": {"enum": [{"format": "kept"}]},
            "e": {"items": {"$ref": "#/$defs/f"}, "default": {"format": "kept"}},
        },
        "anyOf": [{"format": "uri-reference"}, {"additionalProperties": {"format": "color"}}],
        "$defs": {"f": {"type": "string", "format": "password"}},
    }
    structure = Structure(json_schema=schema)
    assert set(unenforced_formats(structure)) == {"color", "int64", "uri-reference", "password"}
    compiler.compile(structure)
    answer = Structure(json_schema={"type": "string", "format": "regex"})
    calls = Structure(tool_calls=ToolCalls({"f": schema, "g": None}, is_required=False, answer=answer))
    assert set(unenforced_formats(calls)) == {"color", "int64", "uri-reference", "password", "regex"}
    compiler.compile(calls)


def test_a_note_tells_the_sender(llm: LLM) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "col\nor"}}}
    body = {"messages": ASKED, "guided_json": schema}
    assert prepare_chat(llm, ChatCompletionRequest.model_validate(body)).notes == (
        "the schema's format 'col\\nor' is not enforced",
    )
    assert prepare_chat(llm, ChatCompletionRequest.model_validate({"messages": ASKED})).notes == ()
