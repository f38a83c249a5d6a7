"""The forms in which earlier turns may be given, and those that are refused by name."""

from __future__ import annotations

import copy
import json

import pytest
from openai.types.chat import ChatCompletionMessage

from qwartet.cli.chat.conversation import Conversation
from qwartet.errors import RequestError
from qwartet.tokenizer.history import Turns, turns_of

PAIRS = [("What is 1 + 1?", "2"), ("ab", "cd")]
MESSAGES = [
    {"role": role, "content": text} for pair in PAIRS for role, text in zip(("user", "assistant"), pair, strict=True)
]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "history",
    [
        PAIRS,
        tuple(PAIRS),
        [list(pair) for pair in PAIRS],
        json.loads(json.dumps(PAIRS)),
        MESSAGES,
        tuple(MESSAGES),
        [{**message, "refusal": None, "annotations": [], "tool_calls": None} for message in MESSAGES],
        [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in MESSAGES],
        Conversation(None, PAIRS).to_dict(),
        json.loads(json.dumps(Conversation(None, PAIRS).to_dict())),
        [{"user": query, "assistant": answer} for query, answer in PAIRS],
        [{"user": query, "bot": answer} for query, answer in PAIRS],
    ],
)
def test_every_form_gives_the_same_turns_and_stays_as_it_was(history) -> None:
    before = copy.deepcopy(history)
    found = turns_of(history)
    assert found == PAIRS and found.system is None
    assert all(type(turn) is tuple for turn in found)
    assert history == before and found is not history


@pytest.mark.parametrize("history", [None, [], ()])
def test_no_history_is_no_turns(history) -> None:
    assert turns_of(history) == []


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_is_the_system_prompt(role: str) -> None:
    assert turns_of([{"role": role, "content": "Be brief."}, *MESSAGES]).system == "Be brief."
    assert turns_of([{"role": role, "content": "Be brief."}]) == []
    assert turns_of(Conversation("Be brief.", PAIRS).to_dict()).system == "Be brief."


def test_a_system_prompt_stays_with_the_turns() -> None:
    begun = turns_of([SYSTEM, *MESSAGES])
    longer = Turns([*begun, ("q", "a")], begun.system)
    assert turns_of(longer).system == "Be brief."
    assert turns_of(copy.deepcopy(longer), "Another.") == [*PAIRS, ("q", "a")]
    more = [("q", "a")]
    for kept in (longer[-1:], longer + more, longer.copy(), copy.copy(longer), copy.deepcopy(longer)):
        assert turns_of(kept).system == "Be brief." and kept[-1] == ("q", "a")


def test_messages_of_an_sdk_are_messages() -> None:
    """Its documentation has one append `response.choices[0].message` to the list."""
    answer = ChatCompletionMessage(role="assistant", content="2")
    assert turns_of([{"role": "user", "content": "1 + 1"}, answer]) == [("1 + 1", "2")]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("ab", r"history is 'ab' \(a str\); pass pairs"),
        (b"ab", "a bytes"),
        (0, "history is 0"),
        (False, "history is False"),
        ({}, "not a conversation saved with /save"),
        ({"q": "a"}, "not a conversation saved with /save"),
        ({"a", "b"}, "a set"),
        (iter(PAIRS), "history is <"),
        (["ab", "cd"], r"item 1 of history is 'ab' \(a str\)"),
        (("q", "a"), "item 1 of history is 'q'"),
        ([("q", "a"), "cd"], "item 2 of history is 'cd'"),
        ([("q", "a"), None], "item 2 of history is None"),
        ([("q", "a"), {"q", "a"}], "item 2 of history is {"),
        ([{"q": "x", "a": "y"}], "item 1 of history is {'q'"),
        ([{"from": "user", "value": "x"}], "item 1 of history is {'from'"),
        ([("q", "a"), {"role": "user", "content": "x"}], "mixes pairs, messages"),
        ([("q",)], "turn 1 of history has 1 parts"),
        ([("q", "a"), ("q", "a", "x")], "turn 2 of history has 3 parts"),
        ([("q", None)], r"no answer of turn 1 \(None\); leave that turn out"),
        ([(None, "a")], "no query of turn 1"),
        ([("q", 5)], "answer of turn 1 in history is 5"),
        ([({"role": "user"}, {"role": "assistant"})], "query of turn 1 in history is {'role'"),
        ([*MESSAGES, {"role": "user", "content": "x"}], "ends with a user message; leave it out and pass it as the"),
        ([MESSAGES[1], MESSAGES[0]], "message 1 of history has the role 'assistant' where 'user' is expected"),
        ([MESSAGES[0], MESSAGES[0]], "message 2 .* role 'user' where 'assistant'"),
        ([*MESSAGES, SYSTEM], "message 5 .* role 'system'"),
        ([SYSTEM, SYSTEM], "message 2 .* role 'system'"),
        ([MESSAGES[0], {"role": "tool", "content": "x"}], "role 'tool'"),
        ([MESSAGES[0], {"role": "assistant", "content": None}], "no content of message 2"),
        ([{"role": "user"}], "no content of message 1"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "content of message 1"),
        ([MESSAGES[0], {"role": "assistant", "content": "x", "tool_calls": [{}]}], "message 2 of history has tool_cal"),
        ([{"user": "q"}], "turn 1 of history has the keys 'user'"),
        ([{"user": "q", "assistant": "a", "bot": "b"}], "has the keys"),
        ([{"user": "q", "assistant": None}], "no answer of turn 1"),
        ({**Conversation(None, PAIRS).to_dict(), "version": 2}, "version 2"),
        (Conversation(None, PAIRS, {"temperature": 0}).to_dict(), "sampling settings.*pass them as arguments"),
    ],
)
def test_another_form_is_refused_by_name_with_what_to_do(history, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        turns_of(history)
    assert raised.value.param == "history" and "; " in str(raised.value)
    assert len(str(raised.value)) < 300


def test_two_system_prompts_are_refused_and_the_same_one_twice_is_not() -> None:
    with pytest.raises(RequestError, match="system= sets another; pass only one of them"):
        turns_of([SYSTEM, *MESSAGES], "Be long.")
    assert turns_of([SYSTEM, *MESSAGES], "Be brief.") == PAIRS
