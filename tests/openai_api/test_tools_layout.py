"""The prompt of a chat with tools equals that of the original server, character by character.

`original_prompt` follows the rules of that server's parse_messages and text_complete_last_message, said anew and apart
from the code under test; conversations that it did not accept are left out.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from qwartet.openai_api.protocol import ChatCompletionRequest
from qwartet.openai_api.tools import ToolChat, tool_chat
from qwartet.tokenizer.chatml import build_prompt
from tests.tokenizer.vocabularies import small_tokenizer

TOKENIZER = small_tokenizer()
FORMAT = (
    "Use the following format:\n\nQuestion: the input question you must answer\n"
    "Thought: you should always think about what to do\nAction: the action to take, should be one of [{}]\n"
    "Action Input: the input to the action\nObservation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\nFinal Answer: the final answer to the original input question\n\nBegin!"
)


def original_prompt(messages: list[dict[str, Any]], functions: list[dict[str, Any]]) -> str | None:
    """The prompt text; None where the original server answered 400 or continued a complete answer."""
    if not any(message["role"] == "user" for message in messages):
        return None
    system = "You are a helpful assistant."
    if messages[0]["role"] == "system":
        system, messages = trim(messages[0]["content"]), messages[1:]
    dialogue: list[list[str]] = []  # role and text, consecutive answers and results in one
    for message in messages:
        role, content, call = message["role"], trim(message["content"] or ""), message.get("function_call")
        last = dialogue[-1] if dialogue else [None, ""]
        if role == "system":
            return None
        if role == "user":
            dialogue.append(["user", content])
        elif role == "function":
            if last[0] != "assistant":
                return None
            last[1] += "\nObservation: " + content
        else:
            if last[0] is None:
                return None
            if call is not None:
                thought = content if content.startswith("Thought:") else "Thought: " + content
                content = thought + "\nAction: " + call["name"] + "\nAction Input: " + call["arguments"]
            elif functions:
                content = "Thought: I now know the final answer.\nFinal Answer: " + content
            if last[0] == "user":
                dialogue.append(["assistant", trim(content)])
            else:
                last[1] += "\n" + content
    if messages[-1]["role"] == "assistant":
        return None
    is_open = messages[-1]["role"] == "function"
    if is_open:
        dialogue[-1][1] += "\nThought:"
    roles = [role for role, _ in dialogue]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        return None
    dialogue = [[role, trim(text)] for role, text in dialogue]
    if functions:
        questions = [turn for turn in dialogue if turn[0] == "user"]
        answered = [turn for turn, after in pairwise(dialogue) if after[0] == "assistant"]
        question = (answered or questions)[-1]
        question[1] = describe(functions) + "\n\nQuestion: " + question[1]
    parts = [f"<|im_start|>{role}\n{text}<|im_end|>" for role, text in [["system", system], *dialogue]]
    text = "\n".join(parts)
    return text.removesuffix("<|im_end|>") if is_open else text + "\n<|im_start|>assistant\n"


def trim(text: str) -> str:
    return text.lstrip("\n").rstrip()


def describe(functions: list[dict[str, Any]]) -> str:
    texts, names = [], []
    for one in functions:
        name = one.get("name_for_model", one.get("name", ""))
        human = one.get("name_for_human", one.get("name", ""))
        description = one.get("description_for_model", one.get("description", ""))
        parameters = json.dumps(one["parameters"], ensure_ascii=False)
        texts.append(
            f"{name}: Call this tool to interact with the {human} API. What is the {human} API useful for? "
            f"{description} Parameters: {parameters}"
        )
        names.append(name)
    opening = "Answer the following questions as best you can. You have access to the following APIs:\n\n"
    return opening + "\n\n".join(texts) + "\n\n" + FORMAT.format(", ".join(names))


def prompt_of(body: dict[str, Any]) -> str:
    chat = tool_chat(ChatCompletionRequest.model_validate(body))
    assert chat is not None
    return text_of(chat)


def text_of(chat: ToolChat) -> str:
    return TOKENIZER.decode(build_prompt(TOKENIZER, chat.messages, answer_start=chat.answer_start))


TEXT = st.lists(st.sampled_from(["a", "天气", "\n", " ", "Thought: b", "\nAction: c", "{x}", "."]), max_size=4).map(
    "".join
)
NAME = st.sampled_from(["get_weather", "clock"])
CALL = st.fixed_dictionaries({"name": NAME, "arguments": st.sampled_from(['{"city": "Oslo"}', "{}", "", " x\n"])})
SCHEMA = st.sampled_from(
    [{"type": "object", "properties": {}}, {"type": "object", "properties": {"city": {"description": "城市"}}}]
)
FUNCTION = st.fixed_dictionaries({"name": NAME, "parameters": SCHEMA}, optional={"description": TEXT})
QWEN_FUNCTION = st.fixed_dictionaries(
    {
        "name_for_model": NAME,
        "name_for_human": st.sampled_from(["天气", "Clock"]),
        "description_for_model": TEXT,
        "parameters": st.just([{"name": "city", "required": True, "schema": {"type": "string"}}]),
    }
)


def functions_of(kinds: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(kinds, min_size=1, max_size=2, unique_by=lambda one: one.get("name_for_model", one.get("name")))


def said(role: str) -> st.SearchStrategy[dict[str, Any]]:
    # No empty questions: the original's two code paths disagree on the space after "Question:".
    text = TEXT.filter(trim) if role == "user" else TEXT
    return st.fixed_dictionaries({"role": st.just(role), "content": text})


CALLED = st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT | st.none(), "function_call": CALL})
RESULT = st.fixed_dictionaries({"role": st.just("function"), "name": NAME, "content": TEXT})


def joined(*parts: st.SearchStrategy[list[dict[str, Any]]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.tuples(*parts).map(lambda lists: [message for messages in lists for message in messages])


def alone(message: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return message.map(lambda one: [one])


def several(
    messages: st.SearchStrategy[list[dict[str, Any]]], least: int, most: int
) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(messages, min_size=least, max_size=most).map(lambda lists: [one for some in lists for one in some])


QUESTION = alone(said("user"))
CALL_AND_RESULT = st.tuples(CALLED, RESULT).map(list)
ANSWER = several(CALL_AND_RESULT | alone(said("assistant")), 1, 3)
SYSTEM = st.just([]) | alone(said("system"))
TURNS = several(joined(QUESTION, ANSWER), 0, 2)
WITH_CALL = joined(SYSTEM, TURNS, QUESTION, ANSWER, CALL_AND_RESULT, st.just([]) | joined(ANSWER, QUESTION))
OUT_OF_ORDER = joined(SYSTEM, TURNS, alone(st.sampled_from(["user", "assistant", "system"]).flatmap(said)), QUESTION)
CONVERSATION = WITH_CALL | joined(SYSTEM, TURNS, QUESTION) | OUT_OF_ORDER


@given(messages=CONVERSATION, functions=functions_of(FUNCTION) | functions_of(QWEN_FUNCTION))
def test_a_conversation_with_functions_has_the_original_prompt(
    messages: list[dict[str, Any]], functions: list[dict[str, Any]]
) -> None:
    expected = original_prompt(messages, functions)
    assume(expected is not None)
    assert prompt_of({"messages": messages, "functions": functions}) == expected


def with_ids(messages: list[dict[str, Any]], sizes: list[int]) -> list[dict[str, Any]]:
    """The same conversation with `tool_calls`: `sizes` calls per message, each message followed by its results."""
    converted: list[dict[str, Any]] = []
    index = number = 0
    while index < len(messages):
        size = 0
        while size < sizes[number % len(sizes)] and is_pair(messages[index + 2 * size :], is_first=size == 0):
            size += 1
        pairs = messages[index : index + 2 * size]
        number += 1
        if not size:
            converted.append(messages[index])
            index += 1
            continue
        calls = [
            {"id": f"call_{number}_{place}", "type": "function", "function": one["function_call"]}
            for place, one in enumerate(pairs[::2])
        ]
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": one["content"]}
            for call, one in zip(calls, pairs[1::2], strict=True)
        ]
        converted.append({"role": "assistant", "content": pairs[0]["content"], "tool_calls": calls})
        converted += reversed(results)
        index += 2 * size
    return converted


def is_pair(messages: list[dict[str, Any]], *, is_first: bool) -> bool:
    """Whether a call and its result come next; only the first of several may have a thought."""
    if [one["role"] for one in messages[:2]] != ["assistant", "function"] or "function_call" not in messages[0]:
        return False
    return is_first or not messages[0]["content"]


@given(messages=CONVERSATION, functions=functions_of(FUNCTION), sizes=st.lists(st.integers(1, 3), min_size=1))
def test_tools_have_the_prompt_of_functions_whatever_the_order_of_results(
    messages: list[dict[str, Any]], functions: list[dict[str, Any]], sizes: list[int]
) -> None:
    expected = original_prompt(messages, functions)
    assume(expected is not None)
    tools = [{"type": "function", "function": one} for one in functions]
    assert prompt_of({"messages": with_ids(messages, sizes), "tools": tools}) == expected


@given(messages=WITH_CALL)
def test_calls_without_functions_have_the_original_prompt_up_to_the_open_thought(
    messages: list[dict[str, Any]],
) -> None:
    expected = original_prompt(messages, [])
    assume(expected is not None)
    prompt = prompt_of({"messages": messages})
    if messages[-1]["role"] == "function":
        assert prompt == expected + " I now know the final answer.\nFinal Answer:"
    else:
        assert prompt == expected


def test_a_round_with_a_tool_is_laid_out_so() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    body = {
        "messages": [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "I need the clock.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "noon"},
        ],
        "tools": [{"type": "function", "function": {"name": "clock", "description": "Tells the time."}}],
    }
    prompt = prompt_of(body)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nAnswer the")
    assert "clock: Call this tool to interact with the clock API. What is the clock API useful for? Tells" in prompt
    assert prompt.endswith(
        "Begin!\n\nQuestion: What time is it?<|im_end|>\n<|im_start|>assistant\nThought: I need the clock.\n"
        "Action: clock\nAction Input: {}\nObservation: noon\nThought:"
    )
