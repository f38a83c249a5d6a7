"""Structures of tool calls: what is required is a call, and where it is not, a call has arguments of its schema."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.engine.constrain import Constraint
from qwartet.engine.grammar import MAX_THOUGHT_CHARS
from qwartet.engine.structure import Structure, ToolCalls
from qwartet.errors import RequestError, SettingError
from qwartet.tokenizer.react_stream import ReactPart, parse_react
from tests.engine.walks import BYTE_IDS, COMPILER, STOPS, TOKENIZER, walk

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "北京"]}},
    "required": ["city"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS = {"get_weather": CITY, "clock": NOTHING}
ANYTHING = {"search": None}  # a tool that is called with anything


def is_of(arguments: str, name: str) -> bool:
    if name == "search":
        return True
    try:
        value = json.loads(arguments)
    except ValueError:
        return False
    return value == {} if name == "clock" else value in ({"city": "Oslo"}, {"city": "北京"})


@cache
def compiled(is_required: bool, begins_in_thought: bool) -> Constraint:
    schemas = SCHEMAS if is_required else SCHEMAS | ANYTHING
    return COMPILER.compile(Structure(tool_calls=ToolCalls(schemas, is_required, begins_in_thought)))


def is_whole(constraint: Constraint, text: str) -> bool:
    ids = BYTE_IDS[list(text.encode())].tolist()
    return constraint.count_valid([*ids, STOPS[0]]) == len(ids) + 1


def begun(constraint: Constraint, text: str) -> Constraint:
    """A copy that has accepted a text, byte by byte."""
    constraint = constraint.fork()
    for byte in text.encode():
        constraint.accept(int(BYTE_IDS[byte]))
    return constraint


@pytest.mark.parametrize("begins_in_thought", [False, True])
def test_what_is_required_is_a_thought_and_a_call_with_arguments_of_the_schema(begins_in_thought: bool) -> None:
    names = set()
    opening = " a\n" if begins_in_thought else "Thought: a\n"
    for seed in range(20):
        constraint = begun(compiled(True, begins_in_thought), opening)
        output = opening + TOKENIZER.decode(walk(constraint, random.Random(seed)), errors="strict")
        reply = parse_react(output, "thought" if begins_in_thought else "start")
        assert reply.text == "a" and reply.name is not None and is_of(reply.arguments, reply.name)
        names.add(reply.name)
    assert names == SCHEMAS.keys()


def test_a_call_that_is_required_can_be_written_as_the_model_was_trained_to() -> None:
    call = 'Thought: I need it.\nAction: get_weather\nAction Input: {"city": "北京"}'
    assert is_whole(compiled(True, False), call)
    assert is_whole(compiled(True, True), call.removeprefix("Thought:"))
    assert not is_whole(compiled(True, False), "Thought: a\nFinal Answer: b")
    assert not is_whole(compiled(True, False), call.replace("get_weather", "get_time"))


def test_the_thought_before_a_required_call_has_an_end() -> None:
    for num_chars, can_be in ((MAX_THOUGHT_CHARS, True), (MAX_THOUGHT_CHARS + 1, False)):
        text = f"Thought: {'é' * num_chars}\nAction: clock\nAction Input: {{}}"
        assert is_whole(compiled(True, False), text) == can_be


@pytest.mark.parametrize("begins_in", ["start", "thought"])
def test_the_usual_answers_and_calls_are_free_where_nothing_is_required(begins_in: ReactPart) -> None:
    constraint = compiled(False, begins_in == "thought")
    opening = "" if begins_in == "thought" else "Thought:"
    for text in (
        f"{opening} I know.\nFinal Answer: Oslo.\n\nAction: clock\nAction Input: 5",
        f'{opening} I need it.\nAction: get_weather\nAction Input: {{"city": "Oslo"}}',
        f"{opening} I need it.\nAction: search\nAction Input: free text\nof lines",
        "It rains.\n\n- in Oslo\n- in 北京\n",
        "",
    ):
        assert is_whole(constraint, text), text


@pytest.mark.parametrize("seed", range(10))
def test_a_walk_through_a_free_text_ends_in_what_the_reader_and_the_schema_agree_on(seed: int) -> None:
    constraint = begun(compiled(False, False), "Thought: a\nAction: get_weather\nAction Input:")
    arguments = TOKENIZER.decode(walk(constraint, random.Random(seed)), errors="strict")
    assert is_of(arguments, "get_weather")


def test_a_line_that_begins_with_action_calls_a_tool_that_there_is() -> None:
    constraint = compiled(False, False)
    for text in ("Action: clocks\nAction Input: {}", "Thought: a\nAction: no", "Action: clock", "Action: clock\nThus"):
        assert not is_whole(constraint, text), text
    assert is_whole(constraint, "No Action: clocks\nAction Input: {}")


PIECE = st.sampled_from(
    [
        *("Thought: a", "Action:", "Action: clock", "Action: get_weather", "Action: clocks", "Action: search"),
        *("Action Input:", "Action Input: {}", 'Action Input: {"city": "Oslo"}', "Final Answer:"),
        *("clock", "\n", "\n", "\n", " ", "\t", "x"),
    ]
)


@given(text=st.lists(PIECE, max_size=12).map("".join), begins_in=st.sampled_from(["start", "thought"]))
def test_a_call_that_the_reader_finds_is_one_of_the_tools_and_text_without_calls_is_free(
    text: str, begins_in: ReactPart
) -> None:
    can_be = is_whole(compiled(False, begins_in == "thought"), text)
    reply = parse_react(text, begins_in)
    if can_be and reply.name is not None:
        assert reply.name in SCHEMAS | ANYTHING and is_of(reply.arguments, reply.name)
    before_answer = f"{'' if begins_in == 'thought' else chr(10)}{text}".partition("\nFinal Answer:")[0]
    if "\nAction:" not in before_answer:
        assert can_be


def test_128_tools_are_served() -> None:
    schemas = {f"{i:03}_{'x' * 60}": CITY for i in range(128)}
    for is_required in (False, True):
        constraint = COMPILER.compile(Structure(tool_calls=ToolCalls(schemas, is_required)))
        text = f'Thought: a\nAction: {list(schemas)[-1]}\nAction Input: {{"city": "Oslo"}}'
        assert is_whole(constraint, text) and not is_whole(constraint, text.replace("Oslo", "Paris"))


@pytest.mark.parametrize(
    ("schemas", "message"),
    [
        ({}, "map at least one name"),
        ([("a", {})], "map at least one name"),
        ({"a b": {}}, "a tool has the name 'a b'; use 1 to 64"),
        ({'a" | "b': {}}, "a tool has the name"),
        ({"a\n": {}}, "a tool has the name"),
        ({"a" * 65: {}}, "a tool has the name"),
        ({1: {}}, "a tool has the name 1"),
        ({"a": 5}, "json_schema is 5; it must be a JSON object"),
    ],
)
def test_what_is_no_tool_is_refused(schemas: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ToolCalls(schemas)


def test_a_structure_of_calls_takes_no_grammar() -> None:
    with pytest.raises(SettingError, match="it must be ToolCalls"):
        Structure(tool_calls='start: "x"')


@pytest.mark.parametrize(
    ("one", "num_allowed", "message"),
    [
        ({"description": "x" * 32000}, 2, "bytes; at most 65536"),
        ({"enum": [1] * 4998}, 2, "values; at most 10000"),
        ({"type": "string", "pattern": "a" * 4000}, 2, "bytes of patterns"),
        ({"patternProperties": {f"^a{i}$": {} for i in range(30)}}, 2, "patternProperties"),
    ],
)
def test_the_tools_share_the_limits_of_one_schema_sec_10(one: dict[str, Any], num_allowed: int, message: str) -> None:
    schemas = {f"t{i}": one for i in range(num_allowed + 1)}
    with pytest.raises(RequestError, match=message):
        COMPILER.compile(Structure(tool_calls=ToolCalls(schemas)))
    del schemas["t0"]
    COMPILER.compile(Structure(tool_calls=ToolCalls(schemas)))


def test_multiples_of_several_tools_are_limited_together_sec_10() -> None:
    schemas = {f"t{prime}": {"type": "integer", "multipleOf": prime} for prime in (211, 223, 227)}
    with pytest.raises(RequestError, match="multipleOf is above 50000"):
        COMPILER.compile(Structure(tool_calls=ToolCalls(schemas)))
