"""The seconds of long prompts are computed from one short prompt, in proportion to the work that the model says."""

from __future__ import annotations

from itertools import count

from qwartet.evaluate.forecast import prompt_lines
from qwartet.evaluate.question import Answer, Chat, Continue
from tests.evaluate.bundled import tokenizer
from tests.evaluate.fake import FakeAnswerer


def answerer(reply=lambda question: Answer("x"), *, is_chat: bool = True) -> FakeAnswerer:
    made = FakeAnswerer(reply)
    made.is_chat, made.work = is_chat, lambda num_tokens: float(num_tokens**2)
    return made


def clock():
    ticks = count()
    return lambda: float(next(ticks))  # each prompt takes a second


def test_seconds_grow_with_the_work() -> None:
    lines = list(prompt_lines("needle", {512: 1, 1024: 3}, answerer(), tokenizer(), clock()))
    assert lines == [
        "needle: 1 prompt of 512 tokens, about 4 s each",
        "needle: 3 prompts of 1,024 tokens, about 16 s each",
        "needle: 4 prompts, 3,584 tokens, at most 52 s",
    ]


def test_long_runs_are_told_in_minutes_and_hours() -> None:
    lines = list(prompt_lines("needle", {512: 1, 32768: 1}, answerer(), tokenizer(), clock()))
    assert lines[1] == "needle: 1 prompt of 32,768 tokens, about 16,384 s each"
    assert lines[2].endswith("at most 4.6 h")


def test_the_probe_is_small_and_fits_the_shortest_length() -> None:
    asked = []
    made = answerer(lambda question: asked.append(question.request) or Answer("x"))
    list(prompt_lines("needle", {100: 1}, made, tokenizer(), clock()))
    assert len(asked) == 2 and all(isinstance(one, Chat) and one.max_tokens == 1 for one in asked)
    assert asked[0] != asked[1]
    assert all(len(tokenizer().encode(one.messages[0].content)) <= 52 for one in asked)
    made = answerer(lambda question: asked.append(question.request) or Answer("x"), is_chat=False)
    list(prompt_lines("needle", {100: 1}, made, tokenizer(), clock()))
    assert isinstance(asked[-1], Continue)


def test_no_seconds_are_told_where_the_probe_fails() -> None:
    failing = answerer(lambda question: Answer(error="no"))
    lines = list(prompt_lines("needle", {512: 2}, failing, tokenizer(), clock()))
    assert lines == ["needle: 2 prompts of 512 tokens", "needle: 2 prompts, 1,024 tokens"]
