"""Calls as Qwen2.5 and Qwen3 write them are read alike in one piece and in any pieces, and nothing is lost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.call_stream import CallStream

Read = tuple[str, list[tuple[str, str]]]


def read(output: str, only_first: bool = False) -> Read:
    return read_pieces([output], only_first)


def read_pieces(pieces: list[str], only_first: bool = False) -> Read:
    """The text, and each call's name and arguments."""
    stream = CallStream(only_first)
    texts: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for delta in [delta for piece in pieces for delta in stream.feed(piece)] + stream.finish():
        assert [delta.text != "", delta.name is not None, delta.arguments != ""].count(True) == 1, "it says one thing"
        assert not delta.reasoning
        texts.append(delta.text)
        if delta.name is not None:
            calls.append((delta.name, []))
        elif delta.arguments:
            calls[-1][1].append(delta.arguments)
    assert len(calls) == stream.num_calls
    return "".join(texts), [(name, "".join(arguments)) for name, arguments in calls]


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


CITY = '{"city": "Oslo"}'
WEATHER = call("get_weather", CITY)


def test_a_call_is_read_with_its_arguments_as_written() -> None:
    assert read(WEATHER) == ("", [("get_weather", CITY)])
    spaced = '{ "city" :"Oslo",\n "days":\t[1, 2] }'
    assert read(call("f", spaced)) == ("", [("f", spaced)])
    assert read('<tool_call>{"name":"f","arguments":{}}</tool_call>') == ("", [("f", "{}")])


def test_several_calls_and_the_text_around_them_are_read() -> None:
    output = f"I look it up.\n\n{WEATHER}\n{call('clock', '{}')}\n"
    assert read(output) == ("I look it up.", [("get_weather", CITY), ("clock", "{}")])
    output = f"One.\n{WEATHER}\nTwo.\n{WEATHER} Three. "
    assert read(output) == ("One.\nTwo.\nThree.", [("get_weather", CITY)] * 2)


def test_of_several_calls_only_the_first_counts_where_one_is_wanted() -> None:
    output = f"I look.\n{WEATHER}\nAnd then:\n{call('clock', '{}')}"
    assert read(output, only_first=True) == ("I look.", [("get_weather", CITY)])
    assert read(f"<tool_call>no</tool_call> {WEATHER}", only_first=True)[1] == [("get_weather", CITY)]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": {"b": {"c": [{}, [[]]]}}}',
        '{"text": "a } brace, a { brace, a \\" quote, a \\\\"}',
        '{"text": "</tool_call><tool_call>"}',
        '{"text": "北京 \\u5317 😀"}',
        '{"code": "if a < b:\\n    print(1)"}',
        "{}",
    ],
)
def test_braces_quotes_and_tags_within_strings_belong_to_the_arguments(arguments: str) -> None:
    assert json.loads(arguments) is not None
    assert read(f"{call('f', arguments)}\n{WEATHER}") == ("", [("f", arguments), ("get_weather", CITY)])


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "hello",
        "{}",
        '{"arguments": {}}',
        '{"name": 5, "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": 5}',
        '{"name": "", "arguments": {}}',
        '{"name": " ", "arguments": {}}',
        '{"name": "a\\nb", "arguments": {}}',
        '{"name": "a\\ud800", "arguments": {}}',
        f'{{"name": "{65 * "x"}", "arguments": {{}}}}',
        "{'name': 'f', 'arguments': {}}",
        '{"name": "f" "arguments": {}}',
        '[{"name": "f", "arguments": {}}]',
        "[" * 9000,
        '{"a":' * 9000,
        '{"name": "f", "argum',
        "{" + 600 * " " + '"name": 5}',
    ],
)
def test_what_is_not_a_call_stays_text_with_its_tags(inner: str) -> None:
    output = f"Well: <tool_call>{inner}</tool_call> done"
    assert read(output) == (output, [])
    assert read_pieces(list(output)) == (output, [])
    cut = f"Well: <tool_call>{inner}"
    assert read(cut) == (cut.rstrip(), [])


def test_after_what_is_not_a_call_others_are_read() -> None:
    broken = '<tool_call>\n{"name": oops}\n</tool_call>'
    assert read(f"{broken}\n{WEATHER}") == (broken, [("get_weather", CITY)])
    assert read(f'<tool_call>{{"name": "f", \n{WEATHER}') == ('<tool_call>{"name": "f",', [("get_weather", CITY)])


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"city": "Oslo"', '{"city": "Oslo"}'),
        ('{"city": "Oslo}', '{"city": "Oslo}}'),
        ('{"city": Oslo}', '{"city": Oslo}'),
        ('{"a": 1]}', '{"a": 1]}'),
        ("{'city': 'Oslo'}", "{'city': 'Oslo'}"),
        ('{"a": "two\nlines"}', '{"a": "two\nlines"}'),
        ('{"a": <b>}', '{"a": <b>}'),
    ],
)
def test_arguments_that_are_begun_are_passed_on_as_written(written: str, arguments: str) -> None:
    """They are never taken back from a stream; a tag ends them where no valid string holds it."""
    assert read(f"{call('f', written)}\n{WEATHER}") == ("", [("f", arguments), ("get_weather", CITY)])


def test_arguments_are_never_evaluated_sec_04() -> None:
    for arguments in ("{__import__('os').system('exit 1')}", '{"a": 1e999}', '{"a": ' + "[" * 10_000):
        (name, found), *others = read(call("run", arguments))[1]
        assert (name, others) == ("run", []) and found.startswith(arguments.removesuffix("}"))


def test_a_call_that_is_cut_off_has_the_arguments_so_far() -> None:
    output = WEATHER[: WEATHER.index("Oslo") + 2]
    assert read(output) == ("", [("get_weather", '{"city": "Os')])
    assert read(WEATHER[: WEATHER.index("{", 20)]) == (WEATHER[: WEATHER.index("{", 20)].rstrip(), [])


def test_missing_ends_are_forgiven() -> None:
    complete = WEATHER.removesuffix("\n</tool_call>")
    assert read(complete) == read(complete.removesuffix("}")) == read(WEATHER)
    assert read(f"{complete}\n{WEATHER}") == ("", [("get_weather", CITY)] * 2)
    assert read(f"{complete} That is all.") == ("That is all.", [("get_weather", CITY)])
    assert read(complete + "\n</tool") == ("\n</tool".strip(), [("get_weather", CITY)])


def test_other_forms_of_a_call_are_read_once_it_is_complete() -> None:
    for written in (
        '{"arguments": {"city": "Oslo"}, "name": "get_weather"}',
        '{"name": "get_weather", "id": 5, "arguments": {"city": "Oslo"}}',
        '{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}',
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}',
        '{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "}</tool>"}',
    ):
        assert read(f"<tool_call>{written}</tool_call>") == read(WEATHER), written
    assert read('<tool_call>{"name": "clock"}</tool_call>') == ("", [("clock", "{}")])


def test_a_name_that_no_tool_has_is_passed_on_as_react_does() -> None:
    assert read(call("rain gauge", "{}"))[1] == [("rain gauge", "{}")]
    assert read(call("天气\\u0041", "{}"))[1] == [("天气A", "{}")]
    assert read(call(64 * "x", "{}"))[1] == [(64 * "x", "{}")]


@pytest.mark.parametrize("output", ["", "It rains.", "a < b <tool <tool_cal", "</tool_call>", "<tool_call >x", "<<<"])
def test_an_answer_without_calls_is_its_text(output: str) -> None:
    assert read(output) == (output, [])


def test_names_and_arguments_stream_as_they_arrive() -> None:
    stream = CallStream()
    assert stream.feed("I look. ") == [AnswerDelta("I look.")]
    assert stream.feed('<tool_call>\n{"name": "get_weather", "argum') == []
    assert stream.feed('ents": ') == []
    assert stream.feed("{") == [AnswerDelta(name="get_weather"), AnswerDelta(arguments="{")]
    assert stream.feed('"city": "Os') == [AnswerDelta(arguments='"city": "Os')]
    assert stream.feed('lo"') == [AnswerDelta(arguments='lo"')]
    assert stream.feed("}") == [AnswerDelta(arguments="}")]
    assert stream.feed("}\n</tool_call>") == stream.feed("\n") == stream.finish() == []


# Any pieces, any outputs


PIECE = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool_call", "</tool", ">", "<", "\n", " ", "x", "。", "Text. "),
        *(
            '{"name": "f", "arguments": ',
            '{"name": "f"',
            ', "arguments": ',
            '"name"',
            '"arguments"',
            "{",
            "}",
            "[",
            "]",
        ),
        *(CITY, WEATHER, call("g", "{}"), '"', "\\", '\\"', ":", ",", "1", "\\u0041", "null", 50 * " ", 70 * "y"),
    ]
)
OUTPUT = st.lists(PIECE, max_size=16).map("".join)


@given(output=OUTPUT, cuts=st.lists(st.integers(0, 400), max_size=12), only_first=st.booleans())
def test_any_split_into_pieces_is_read_alike(output: str, cuts: list[int], only_first: bool) -> None:
    places = sorted({min(cut, len(output)) for cut in cuts})
    pieces = [output[start:end] for start, end in zip([0, *places], [*places, len(output)], strict=True)]
    whole = read(output, only_first)
    assert read_pieces(pieces, only_first) == whole
    assert read_pieces(list(output), only_first) == whole


@given(output=OUTPUT)
def test_nothing_is_lost(output: str) -> None:
    """Every letter of the output is in the text, a name, or arguments, or belongs to the form of a call."""
    text, calls = read(output)
    for letter in "xyT。":
        kept = text.count(letter) + sum(name.count(letter) + arguments.count(letter) for name, arguments in calls)
        assert kept == output.count(letter), letter


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
CALLS = st.lists(st.tuples(NAME, st.dictionaries(st.text(), JSON, max_size=4)), max_size=4)


@given(calls=CALLS, text=st.sampled_from(["", "I look.", "a < b {"]), ascii_only=st.booleans(), size=st.integers(1, 9))
def test_calls_as_the_template_writes_them_are_read_back(
    calls: list[tuple[str, dict[str, Any]]], text: str, ascii_only: bool, size: int
) -> None:
    written = [(name, json.dumps(arguments, ensure_ascii=ascii_only)) for name, arguments in calls]
    output = "\n".join([*([text] if text else []), *(call(*one) for one in written)])
    assert read_pieces([output[i : i + size] for i in range(0, len(output), size)]) == (text, written)


@pytest.mark.parametrize(
    "piece",
    ["<", "<tool_call>", "<tool_call>{", WEATHER, '"', "\\", "{", '<tool_call>{"name": "f", "arguments": {"a": "', " "],
)
def test_time_is_linear_in_the_output(piece: str) -> None:
    output = piece * (300_000 // len(piece))
    started = time.perf_counter()
    read_pieces([output[i : i + 7] for i in range(0, len(output), 7)])
    assert time.perf_counter() - started < 10
