"""Thinking is separated from the answer behind it, alike in one piece and in any pieces."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.stream import TextStream
from qwartet.tokenizer.thinking import ThinkingPart, ThinkingSplitter, ThinkingStream, begins_in, num_reasoning_tokens
from tests.tokenizer.hf_files import hf_tokenizer, small_content

PARTS: list[ThinkingPart] = list(get_args(ThinkingPart))


def read(output: str, part: ThinkingPart = "start") -> tuple[str, str]:
    return read_pieces([output], part)


def read_pieces(pieces: list[str], part: ThinkingPart) -> tuple[str, str]:
    """The reasoning, and the text of the answer."""
    stream = ThinkingStream(part)
    deltas = [delta for piece in pieces for delta in stream.feed(piece)] + stream.finish()
    assert AnswerDelta() not in deltas
    return "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas)


def test_an_answer_that_begins_with_thinking_is_cut_at_its_tags() -> None:
    assert read("<think>\nHm.\n\nYes.\n</think>\n\nHello! ") == ("Hm.\n\nYes.", "Hello! ")
    assert read("\n <think>a</think>b") == ("a", "b")
    assert read("<think>\n\n</think>\n\nHello") == ("", "Hello")


def test_where_the_prompt_has_the_tag_the_answer_begins_within() -> None:
    assert read("Hm.\n</think>\n\nHello", "thinking") == ("Hm.", "Hello")
    assert read("Hm.\n</think>\n\nHello", "answer") == ("", "Hm.\n</think>\n\nHello")


def test_thinking_that_does_not_end_is_all_reasoning() -> None:
    assert read("<think>\nHm. </thi") == ("Hm. </thi", "")
    assert read("Hm.\n", "thinking") == ("Hm.", "")


@pytest.mark.parametrize(
    "output", ["", " \n", "Hello", " Hello <think>a</think>", "<", "<thin", "<thinks>a", "</think>x"]
)
def test_an_answer_that_does_not_begin_with_the_tag_is_text_alone(output: str) -> None:
    assert read(output) == ("", output)


def test_only_the_first_thinking_counts() -> None:
    assert read("<think>a</think>b<think>c</think>d") == ("a", "b<think>c</think>d")
    assert read("<think>a <think> b</think>c</think>d") == ("a <think> b", "c</think>d")


PIECE = st.sampled_from(["<think>", "</think>", "<think", "</thi", "nk>", "<", "/", "\n", " ", "a", "。", "think"])
OUTPUT = st.lists(PIECE, max_size=12).map("".join)


def read_declaratively(output: str, part: ThinkingPart) -> tuple[str, str]:
    """The same by searching in the whole text."""
    begun = output.lstrip()
    if part == "answer" or (part == "start" and not begun.startswith("<think>")):
        return "", output
    thought, tag, answer = (begun.removeprefix("<think>") if part == "start" else output).partition("</think>")
    return thought.strip(), answer.lstrip() if tag else ""


@given(output=OUTPUT, part=st.sampled_from(PARTS), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_any_pieces_are_read_as_the_rules_say(output: str, part: ThinkingPart, cuts: list[int]) -> None:
    places = sorted({min(cut, len(output)) for cut in cuts})
    pieces = [output[start:end] for start, end in zip([0, *places], [*places, len(output)], strict=True)]
    assert read_pieces(pieces, part) == read_pieces(list(output), part) == read_declaratively(output, part)


@given(pieces=st.lists(PIECE, max_size=12), part=st.sampled_from(PARTS))
def test_the_parts_of_a_split_join_to_the_text(pieces: list[str], part: ThinkingPart) -> None:
    splitter = ThinkingSplitter(part)
    splits = [splitter.feed(piece) for piece in pieces] + [splitter.finish()]
    assert "".join("".join(split) for split in splits) == "".join(pieces)


# In tokens

TOKENIZER = hf_tokenizer(small_content())
THINK, END_THINK, IM_END = (TOKENIZER.special_tokens[tag] for tag in ("<think>", "</think>", "<|im_end|>"))


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, allowed_special="all")


def test_the_end_of_a_prompt_says_where_its_answer_begins() -> None:
    turn = "<|im_start|>assistant\n"
    assert begins_in(TOKENIZER, ids_of(turn)) == "start"
    assert begins_in(TOKENIZER, ids_of(f"{turn}<think>\n")) == "thinking"
    assert begins_in(TOKENIZER, ids_of(f"{turn}<think>\n\n</think>\n\n")) == "answer"
    assert begins_in(TOKENIZER, ids_of(f"<think>{turn}Well"), has_text=True) == "answer"
    assert begins_in(TOKENIZER, []) == "start"


def test_a_tag_in_a_message_does_not_open_thinking() -> None:
    assert begins_in(TOKENIZER, [*ids_of("<|im_start|>user\n"), *TOKENIZER.encode("<think>")]) == "start"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("tail", ["", "ab</think>\n\ncd", "<think>ab</think>cd", "<think>abc", "\n<think>\n", "abc"])
def test_tokens_of_thinking_are_counted_with_their_tags(tail: str, part: ThinkingPart) -> None:
    ids = [*ids_of(tail), IM_END]
    reasoning, answer = read_declaratively(tail, part)
    count = num_reasoning_tokens(TOKENIZER, ids, part)
    if part == "answer" or (part == "start" and "<think>" not in tail):
        assert count == 0
    elif "</think>" in tail:
        assert count == ids.index(END_THINK) + 1
    else:
        assert count == len(ids) and answer == "" and (reasoning in tail)


# Stop strings


def streamed(output: str, stop: str, part: ThinkingPart) -> tuple[str, str | None]:
    stream = TextStream(TOKENIZER, (stop,), thinking=part)
    text = ""
    for token_id in ids_of(output):
        text += stream.push(token_id)
        if stream.stopped_by is not None:
            break
    return text + stream.finish(), stream.stopped_by


def test_stop_strings_apply_to_the_answer_and_not_to_the_thinking() -> None:
    output = "<think>\nstop? no.\n</think>\n\nI stop here"
    assert streamed(output, "stop", "start") == ("<think>\nstop? no.\n</think>\n\nI ", "stop")
    assert streamed(output.removeprefix("<think>"), "stop", "thinking")[0].endswith("</think>\n\nI ")
    assert streamed(output, "stop", "answer") == ("<think>\n", "stop")
    assert streamed("I stop here", "stop", "start") == ("I ", "stop")
    assert streamed("\n\nI stop", "\n\n", "start") == ("", "\n\n")
    assert streamed("<think>\nstop", "stop", "start") == ("<think>\nstop", None)


@given(output=OUTPUT, part=st.sampled_from(PARTS))
def test_without_a_match_the_text_is_whole(output: str, part: ThinkingPart) -> None:
    assert streamed(output, "@", part) == (TOKENIZER.decode(ids_of(output)), None)
