"""Structures of calls in tags, and of what follows thinking: with the tags as tokens of the vocabulary, and as text."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from qwartet.engine.constrain import Constraint, ConstraintCompiler
from qwartet.engine.structure import Structure, ToolCalls
from qwartet.errors import SettingError, StructureError
from qwartet.tokenizer.call_stream import CallStream
from qwartet.tokenizer.thinking import ThinkingPart, split_thinking
from tests.engine import walks
from tests.tokenizer.hf_files import hf_tokenizer, small_content
from tests.tokenizer.vocabularies import small_tokenizer

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "北京"]}},
    "required": ["city"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {"get_weather": CITY, "search": None}

WITH_TAGS, WITHOUT_TAGS = hf_tokenizer(small_content()), small_tokenizer()
COMPILERS = {
    "tokens": ConstraintCompiler(WITH_TAGS, WITH_TAGS.num_tokens + 8, (WITH_TAGS.im_end_id,)),
    "text": ConstraintCompiler(WITHOUT_TAGS, WITHOUT_TAGS.num_tokens + 8, (WITHOUT_TAGS.im_end_id,)),
}
TAGS = pytest.mark.parametrize("tags", COMPILERS)


def ids_of(tags: str, text: str) -> list[int]:
    """The ids of a text, the tags as tokens where there are any, everything else byte by byte."""
    added = WITH_TAGS.special_tokens if tags == "tokens" else {}
    ids: list[int] = []
    while text:
        tag = next((one for one in added if text.startswith(one)), None)
        ids += [added[tag]] if tag is not None else list(text[0].encode())
        text = text[len(tag or text[0]) :]
    return ids


@cache
def compiled(
    tags: str, is_required: bool = False, takes_several: bool = True, thinking: ThinkingPart = "answer"
) -> Any:
    calls = ToolCalls(SCHEMAS, is_required, form="tagged", takes_several=takes_several)
    return COMPILERS[tags].compile(Structure(tool_calls=calls, thinking=thinking))


def is_whole(tags: str, constraint: Constraint, text: str) -> bool:
    ids = ids_of(tags, text)
    end = WITH_TAGS.im_end_id if tags == "tokens" else WITHOUT_TAGS.im_end_id
    return constraint.count_valid([*ids, end]) == len(ids) + 1


def call(name: str = "get_weather", arguments: str = '{"city": "北京"}') -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


SEARCH = call("search", '{"any": [1, {"a": null}]}')
THOUGHT = "<think>\nWhy <tool_call> not? </think\n</think>\n\n"


@TAGS
def test_required_calls_are_calls_and_nothing_else(tags: str) -> None:
    for text in (call(), SEARCH):
        for takes_several in (False, True):
            assert is_whole(tags, compiled(tags, True, takes_several), text)
    several = f"{call()}\n{SEARCH}\n{call()}"
    assert is_whole(tags, compiled(tags, True, True), several)
    assert not is_whole(tags, compiled(tags, True, False), several)
    for text in (
        "",
        "Sunny.",
        f"Well.\n{call()}",
        f"{call()} done",
        call("clock", "{}"),
        call(arguments='{"city": 1}'),
    ):
        assert not is_whole(tags, compiled(tags, True, True), text), text


@TAGS
def test_where_nothing_is_required_each_tag_begins_a_call_of_a_tool_that_there_is(tags: str) -> None:
    free, single = compiled(tags), compiled(tags, takes_several=False)
    for text in ("", "Sunny.\n\n", "a < b </tool_call>", call(), f"I look.\n{SEARCH}"):
        assert is_whole(tags, free, text) and is_whole(tags, single, text), text
    for text in (f"{call()}\n{call()}", f"One.\n{call()}\nTwo.\n{SEARCH}\nThree."):
        assert is_whole(tags, free, text) and not is_whole(tags, single, text), text
    for text in ("a <tool_call> b", call("clock", "{}"), call(arguments="{}"), call("search", "[]"), "<tool_call>"):
        assert not is_whole(tags, free, text), text


def test_what_is_thinking_has_no_structure() -> None:
    for thinking, opening in (("start", THOUGHT), ("start", ""), ("thinking", THOUGHT.removeprefix("<think>"))):
        constraint = compiled("tokens", thinking=thinking)
        for text in (call(), f"I look.\n{SEARCH}"):
            assert is_whole("tokens", constraint, opening + text), (thinking, text)
        assert not is_whole("tokens", constraint, f"{opening}{call('clock', '{}')}")
        choice = COMPILERS["tokens"].compile(Structure(choice=("yes", "no"), thinking=thinking))
        assert is_whole("tokens", choice, f"{opening}yes") and not is_whole("tokens", choice, f"{opening}maybe")
    assert not is_whole("tokens", compiled("tokens", thinking="thinking"), "Hm"), "the thinking has no end"


def test_a_vocabulary_without_its_tags_has_no_thinking() -> None:
    choice = COMPILERS["text"].compile(Structure(choice=("yes", "no"), thinking="start"))
    assert is_whole("text", choice, "yes") and not is_whole("text", choice, f"{THOUGHT}yes")


@TAGS
@pytest.mark.parametrize("seed", range(6))
def test_a_walk_ends_in_what_the_parser_and_the_schema_agree_on(tags: str, seed: int) -> None:
    constraint = compiled(tags, True, True, "start").fork()
    tokenizer = WITH_TAGS if tags == "tokens" else WITHOUT_TAGS
    thought = "<think>a</think>" if tags == "tokens" else ""
    ids = ids_of(tags, thought)
    for token_id in ids:
        constraint.accept(token_id)
    rng = random.Random(seed)
    closing = [ord(letter) for letter in '"}]\n']
    while not constraint.is_complete or (len(ids) < 200 and not constraint.is_finished and rng.random() < 0.5):
        allowed = np.flatnonzero(constraint.mask())
        wanted = [one for one in closing if one in allowed] if len(ids) > 120 else []
        text = [one for one in allowed if one != tokenizer.im_end_id]
        ids.append(int(rng.choice(wanted or text)))
        constraint.accept(ids[-1])
        assert len(ids) < 2000
    reasoning, answer = split_thinking(tokenizer.decode(ids, errors="strict"), "start")
    stream = CallStream()
    deltas = stream.feed(answer) + stream.finish()
    assert (
        reasoning == ("a" if thought else "")
        and stream.num_calls > 0
        and not any(delta.text.strip() for delta in deltas)
    )
    name = ""
    for delta in deltas:
        name = delta.name or name
        if delta.arguments:
            value = json.loads(delta.arguments)
            assert isinstance(value, dict) and (name == "search" or value in ({"city": "Oslo"}, {"city": "北京"}))


@TAGS
def test_special_tokens_are_never_part_of_an_answer(tags: str) -> None:
    mask = compiled(tags).mask()
    tokenizer = WITH_TAGS if tags == "tokens" else WITHOUT_TAGS
    allowed = {token for token, token_id in tokenizer.special_tokens.items() if mask[token_id]}
    tags_of_answers = {tag for tag in tokenizer.special_tokens if not tag.startswith("<|")} - {"<think>"}
    assert allowed == {"<|im_end|>"} | (tags_of_answers if tags == "tokens" else set())


def test_an_answer_in_a_format_may_be_a_call_instead() -> None:
    calls = ToolCalls(SCHEMAS, False, form="tagged", takes_several=True, answer=Structure(json_object=True))
    constraint = COMPILERS["tokens"].compile(Structure(tool_calls=calls, thinking="start"))
    for text in ('{"a": 1}', f'{THOUGHT}{{"a": 1}}', call(), f"{THOUGHT}{call()}\n{SEARCH}"):
        assert is_whole("tokens", constraint, text), text
    assert not is_whole("tokens", constraint, "Sunny.")


def test_the_bundled_vocabulary_has_no_tags_and_react_stays_its_own() -> None:
    structure = Structure(tool_calls=ToolCalls({"clock": None}))
    constraint = walks.COMPILER.compile(structure)
    ids = walks.BYTE_IDS[list(b"Thought: a\nAction: clock\nAction Input: {}")].tolist()
    assert constraint.count_valid([*ids, walks.STOPS[0]]) == len(ids) + 1


def test_faults_are_told() -> None:
    with pytest.raises(SettingError, match="thinking is 'maybe'; it must be one of start, thinking, answer"):
        Structure(json_object=True, thinking="maybe")  # type: ignore[arg-type]
    broken = ToolCalls({"f": {"type": "object", "properties": {"a": {"$ref": "http://x"}}}}, form="tagged")
    with pytest.raises(StructureError, match=r"remote \$ref") as caught:
        COMPILERS["tokens"].compile(Structure(tool_calls=broken, thinking="start"))
    assert caught.value.param == "tool_calls"
