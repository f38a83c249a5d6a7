"""What a model writes in the ReAct format is read alike in one piece and in any pieces, and in linear time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.react_stream import ReactPart, ReactReply, ReactStream, parse_react

PARTS: list[ReactPart] = ["start", "thought", "answer"]


def test_a_call_is_read_with_its_thought_and_arguments() -> None:
    output = 'Thought: I need it.\nAction: get_weather\nAction Input: {"city": "Oslo"}\nObservation: made up'
    assert parse_react(output) == ReactReply("I need it.", "get_weather", '{"city": "Oslo"}')


def test_only_the_first_call_counts() -> None:
    output = "Thought: a\nAction: one\nAction Input: {}\nObservation: x\nThought: b\nAction: two\nAction Input: {}"
    assert parse_react(output) == ReactReply("a", "one", "{}")


def test_arguments_may_span_lines_and_hold_markers() -> None:
    output = 'Thought: t\nAction: run\nAction Input: {"code":\n"Action: x"}\nThought: y Observation: z'
    assert parse_react(output).arguments == '{"code":\n"Action: x"}\nThought: y Observation: z'


def test_arguments_are_never_evaluated_and_stay_as_written_sec_04() -> None:
    for arguments in ("__import__('os').system('touch /tmp/x')", "{'a': 1}", '{"a": 1', "1e999", "[" * 5000):
        assert parse_react(f"Action: run\nAction Input: {arguments}") == ReactReply("", "run", arguments)


@pytest.mark.parametrize("output", ["Final Answer: yes", "Thought: I now know.\nFinal Answer:  yes\n"])
def test_a_final_answer_is_the_answer_alone(output: str) -> None:
    assert parse_react(output) == ReactReply("yes")
    assert not parse_react(output).is_call


def test_what_comes_first_counts() -> None:
    assert parse_react("Final Answer: a\nFinal Answer: b").text == "a\nFinal Answer: b"
    assert not parse_react("Final Answer: write\nAction: x\nAction Input: {}").is_call
    assert parse_react("Action: x\nAction Input: {}\nFinal Answer: a").is_call


def test_text_in_front_of_the_format_is_part_of_the_reply() -> None:
    assert parse_react("Well.\n\nThought: a\nAction: x\nAction Input: {}") == ReactReply("Well.\na", "x", "{}")
    assert parse_react("Well.\nThought: a\nFinal Answer: b") == ReactReply("Well.\nb")
    assert parse_react("Well.\nAction: x\nAction Input: {}") == ReactReply("Well.", "x", "{}")


def test_after_an_open_thought_the_output_begins_with_the_thought() -> None:
    assert parse_react(" a\nAction: x\nAction Input: {}", "thought") == ReactReply("a", "x", "{}")
    assert parse_react(" a\nFinal Answer: b", "thought") == ReactReply("b")
    assert parse_react(" a", "thought") == ReactReply("a")
    assert parse_react("Action: x\nAction Input: {}", "thought").name is None, "this is the line of the thought"


def test_after_an_open_final_answer_everything_is_the_answer() -> None:
    output = " a\nAction: x\nAction Input: {}\nFinal Answer: b"
    assert parse_react(output, "answer") == ReactReply(output.strip())


@pytest.mark.parametrize(
    "output",
    [
        "It rains.",
        "",
        "Thought: I wonder",
        "Action: clock",
        "Thought: a\nAction: clock\nThought: b",
        "Action Input: {}\nAction: clock",
        "Action: \nAction Input: {}",
        "Action: two\nlines\nAction Input: {}",
        "Action:\nclock\nAction Input: {}",
        f"Action: {65 * 'x'}\nAction Input: {{}}",
        " Action: x\nAction Input: {}",
        "I write Action: x\nAction Input: {}",
    ],
)
def test_what_is_neither_call_nor_answer_is_plain_text(output: str) -> None:
    assert parse_react(output) == ReactReply(output.strip())


PIECE = st.sampled_from(
    [
        *("\nThought:", "\nAction:", "\nAction Input:", "\nObservation:", "\nFinal Answer:"),
        *("Thought: a", "Action: f\n", "Action Input: {}", "Final Answer: b", "\n", "\n\n", " ", "\t", "\r\n"),
        *("x", "get_weather", '{"city": "Oslo"}', "\nAct", "\nAction In", "put:", " Answer:", 70 * "y", "。", "\u3000"),
    ]
)
OUTPUT = st.lists(PIECE, max_size=14).map("".join)


def read_declaratively(output: str, begins_in: ReactPart) -> ReactReply:
    """The same by searching in the whole text."""
    if begins_in == "answer":
        return ReactReply(output.strip())
    text = output if begins_in == "thought" else "\n" + output
    calls = re.finditer(r"\nAction:([^\n]{1,72})(?=\nAction Input:)", text)
    call = next((one for one in calls if 1 <= len(one[1].strip(" \t\r")) <= 64), None)
    final = text.find("\nFinal Answer:")
    is_call = call is not None and not 0 <= final < call.start()
    if not is_call and final < 0:
        return ReactReply(text.strip())
    before = text[: call.start() if is_call else final]
    preface, _, thought = ("", "", before) if begins_in == "thought" else before.partition("\nThought:")
    shown = thought if is_call else text[final + len("\nFinal Answer:") :]
    reply = "\n".join(part.strip() for part in (preface, shown) if part.strip())
    if not is_call:
        return ReactReply(reply)
    arguments = text[call.end() + len("\nAction Input:") :].partition("\nObservation:")[0]
    return ReactReply(reply, call[1].strip(" \t\r"), arguments.strip())


@given(output=OUTPUT, begins_in=st.sampled_from(PARTS))
def test_an_output_is_read_as_the_rules_say(output: str, begins_in: ReactPart) -> None:
    assert parse_react(output, begins_in) == read_declaratively(output, begins_in)


@given(output=OUTPUT, begins_in=st.sampled_from(PARTS), data=st.data())
def test_pieces_give_what_the_whole_gives(output: str, begins_in: ReactPart, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=8)))
    stream, deltas = ReactStream(begins_in), []
    for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True):
        deltas += stream.feed(output[start:end])
    deltas += stream.finish()
    reply = parse_react(output, begins_in)
    names = [delta.name for delta in deltas if delta.name is not None]
    assert names == ([reply.name] if reply.is_call else []) and stream.is_call == reply.is_call
    assert "".join(delta.text for delta in deltas) == reply.text
    assert "".join(delta.arguments for delta in deltas) == reply.arguments
    order = ["name" if delta.name is not None else "arguments" if delta.arguments else "text" for delta in deltas]
    assert order == sorted(order, key=["text", "name", "arguments"].index)
    assert AnswerDelta() not in deltas


def given_out(output: str, begins_in: ReactPart = "start") -> list[str]:
    """What each letter made certain."""
    stream = ReactStream(begins_in)
    return ["".join(d.text + (d.name or "") + d.arguments for d in stream.feed(letter)) for letter in output]


def test_answers_and_arguments_are_given_out_letter_by_letter() -> None:
    assert given_out("It rains.") == ["I", "t", "", " r", "a", "i", "n", "s", "."]
    assert given_out("Thought: a\nFinal Answer: no")[-2:] == ["n", "o"]
    output = "Thought: t\nAction: f\nAction Input: [1]"
    assert given_out(output)[-4:] == ["", "[", "1", "]"]
    assert next(one for one in given_out(output) if one) == "tf", "the thought and the name, when both are certain"


def test_a_line_is_held_back_only_while_it_may_become_a_marker() -> None:
    assert given_out("a\nActing") == ["a", "", "", "", "", "", "\nActin", "g"]
    assert given_out("a\nFinal Answers")[-2:] == ["", "\nFinal Answers"]
    assert given_out("Final Answer: a\nAct")[-4:] == ["", "\nA", "c", "t"], "in an answer nothing is a marker"


LONGEST_S = 15.0  # a second on a usual processor; minutes, if it were not linear
UNITS = [
    *("\nAction:", "\nAction Input:", "\nAction: a\nAction Input:", "\nAction:\n", "\nObservation:", "\nThought:"),
    *("\nFinal Answer:", "Thought: ", "\n", " ", "a", "\nAction", "\nFinal Answer", "Action: x\n"),
]


@pytest.mark.parametrize("begins_in", PARTS)
@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_is_read_in_linear_time_sec_09(unit: str, begins_in: ReactPart) -> None:
    output = "Thought: a" + unit * (1_000_000 // len(unit))
    start = time.thread_time()
    parse_react(output, begins_in)
    assert time.thread_time() - start < LONGEST_S
    for num_chars, length in ((100, len(output)), (1, 50_000)):
        stream = ReactStream(begins_in)
        pieces = [output[first : first + num_chars] for first in range(0, length, num_chars)]
        start = time.thread_time()
        deltas = [delta for piece in pieces for delta in stream.feed(piece)] + stream.finish()
        assert time.thread_time() - start < LONGEST_S
        assert "".join(delta.text for delta in deltas) == parse_react(output[:length], begins_in).text
