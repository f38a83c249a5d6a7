"""The published templates of Qwen1.5 to Qwen3, rendered natively: the same text as from the template, in microseconds.

A template is known by the hash of its text. A conversation in a form that the published templates were not written
for, such as a content in parts, goes the long way, so that it gets the same text or the same error there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qwartet.tokenizer.templates.conversation import Conversation
from qwartet.tokenizer.templates.traced import joined, literal

_START, _END, _NEWLINE = literal("<|im_start|>"), literal("<|im_end|>\n"), literal("\n")
_SYSTEM = literal("<|im_start|>system\n")
_ANSWER = literal("<|im_start|>assistant\n")
_NO_THOUGHT = literal("<think>\n\n</think>\n\n")
_TOOLS = literal(
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER_TOOLS = literal(
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call><|im_end|>\n"
)
_CALL, _ARGUMENTS = literal('<tool_call>\n{"name": "'), literal('", "arguments": ')
_CALL_END = literal("}\n</tool_call>")
_RESULT, _RESULT_END = literal("\n<tool_response>\n"), literal("\n</tool_response>")

ASSISTANT = "You are a helpful assistant."
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

Parts = list[str]
Render = Callable[[Conversation], Parts | None]
"""The parts of the text; None for a conversation in another form."""


@dataclass(frozen=True)
class Chatml:
    """Qwen1.5 and Qwen2: turns and nothing else."""

    system: str = ASSISTANT
    opens_last: bool = False  # the last turn is not closed without a generation prompt, as Qwen1.5 began

    def __call__(self, conversation: Conversation) -> Parts | None:
        messages = conversation.messages
        if not all(isinstance(message.get("content"), str) for message in messages):
            return None
        parts: Parts = []
        if messages[0]["role"] != "system":
            parts += [_SYSTEM, literal(self.system), _END]
        for message in messages:
            parts += [_START, message["role"], _NEWLINE, message["content"], _END]
        if self.opens_last and not conversation.add_generation_prompt:
            parts.pop()
        if conversation.add_generation_prompt and not (self.opens_last and messages[-1]["role"] == "assistant"):
            parts.append(_ANSWER)
        return parts


@dataclass(frozen=True)
class Qwen25:
    """Qwen2.5: tools, in the system's turn, and calls."""

    system: str = QWEN

    def __call__(self, conversation: Conversation) -> Parts | None:
        if not _has_common_form(conversation):
            return None
        messages = conversation.messages
        first = messages[0]["content"] if messages[0]["role"] == "system" else literal(self.system)
        if conversation.tools:
            parts = [_SYSTEM, first, _NEWLINE, _NEWLINE, *_shown_tools(conversation.tools)]
        else:
            parts = [_SYSTEM, first, _END]
        for place, message in enumerate(messages):
            role, content, calls = message["role"], message["content"], message.get("tool_calls")
            if role == "user" or (role == "system" and place) or (role == "assistant" and not calls):
                parts += [_START, role, _NEWLINE, content, _END]
            elif role == "assistant":
                parts += [_START, role, *((_NEWLINE, content) if content else ())]
                for call in calls or ():
                    arguments = _json(call["function"]["arguments"])
                    parts += [_NEWLINE, _CALL, call["function"]["name"], _ARGUMENTS, arguments, _CALL_END]
                parts.append(_END)
            elif role == "tool":
                parts += _result(messages, place)
        return [*parts, _ANSWER] if conversation.add_generation_prompt else parts


@dataclass(frozen=True)
class Qwen3:
    """Qwen3: thoughts, kept only of the answers to the last question."""

    keeps_thoughts: bool = True  # False: what came between <think> and </think> is text like any other
    answer: str = ""  # what an answer is made to begin with
    can_skip: bool = True  # enable_thinking false makes it begin with an empty thought

    def __call__(self, conversation: Conversation) -> Parts | None:
        if not _has_common_form(conversation):
            return None
        messages = conversation.messages
        has_system = messages[0]["role"] == "system"
        parts: Parts = []
        if conversation.tools:
            first = (messages[0]["content"], _NEWLINE, _NEWLINE) if has_system else ()
            parts += [_SYSTEM, *first, *_shown_tools(conversation.tools)]
        elif has_system:
            parts += [_SYSTEM, messages[0]["content"], _END]
        last_question = _last_question(messages) if self.keeps_thoughts else len(messages)
        for place, message in enumerate(messages):
            role = message["role"]
            if role == "user" or (role == "system" and place):
                parts += [_START, role, _NEWLINE, message["content"], _END]
            elif role == "assistant":
                is_last = place == len(messages) - 1
                parts += self._answer(message, place > last_question, is_last)
            elif role == "tool":
                parts += _result(messages, place)
        if conversation.add_generation_prompt:
            parts += [_ANSWER, literal(self.answer)]
            if self.can_skip and conversation.settings.get("enable_thinking") is False:
                parts.append(_NO_THOUGHT)
        return parts

    def _answer(self, message: dict[str, Any], is_recent: bool, is_last: bool) -> Parts:
        content, thought = message["content"], message.get("reasoning_content")
        if not self.keeps_thoughts:
            thought = ""
        elif thought is None:
            thought = ""
            if "</think>" in content:
                thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
                content = content.split("</think>")[-1].lstrip("\n")
        parts = [_START, message["role"], _NEWLINE]
        if is_recent and (is_last or thought):
            parts += [literal("<think>\n"), thought.strip("\n"), literal("\n</think>\n\n"), content.lstrip("\n")]
        else:
            parts.append(content)
        for number, call in enumerate(message.get("tool_calls") or ()):
            arguments = call["function"]["arguments"]
            parts += [_NEWLINE] if content or number else []
            parts += [_CALL, call["function"]["name"], _ARGUMENTS]
            parts += [arguments if isinstance(arguments, str) else _json(arguments), _CALL_END]
        return [*parts, _END]


def _has_common_form(conversation: Conversation) -> bool:
    """Whether contents and thoughts are texts, and calls have a name and arguments."""
    for message in conversation.messages:
        if not isinstance(message.get("content"), str) or not isinstance(message.get("reasoning_content", ""), str):
            return False
        calls = message.get("tool_calls", [])
        if not isinstance(calls, list) or not all(map(_is_call, calls)):
            return False
    return True


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str) and "arguments" in function


def _last_question(messages: list[dict[str, Any]]) -> int:
    """The place of the last user message that is not a tool's result in disguise."""
    for place in range(len(messages) - 1, -1, -1):
        content = messages[place]["content"]
        is_result = content.startswith("<tool_response>") and content.endswith("</tool_response>")
        if messages[place]["role"] == "user" and not is_result:
            return place
    return len(messages) - 1


def _shown_tools(tools: list[Any]) -> Parts:
    return [_TOOLS, *(part for tool in tools for part in (_NEWLINE, _json(tool))), _AFTER_TOOLS]


def _result(messages: list[dict[str, Any]], place: int) -> Parts:
    """A tool's result: those that follow one another are in one turn of the user."""
    begins = place == 0 or messages[place - 1]["role"] != "tool"
    ends = place == len(messages) - 1 or messages[place + 1]["role"] != "tool"
    opening = [literal("<|im_start|>user")] if begins else []
    return [*opening, _RESULT, messages[place]["content"], _RESULT_END, *([_END] if ends else [])]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


KNOWN: dict[str, Render] = {
    "7a2fad4301dcce93b13747dfd6ee5fa696dc12de86b85b86344bea8f649022b3": Chatml(ASSISTANT[:-1], opens_last=True),
    "af9c0233881b083b52ff773580215222b5440ac3d0beeeca99b76329b048f8db": Chatml(ASSISTANT[:-1]),
    "793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb": Chatml(),
    "4039eed0f28b7aaa337e70c76cfedba3271ee32505835a095a8c92e536b3c355": Qwen25(ASSISTANT),
    "55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a": Qwen25(),
    "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5": Qwen3(),
    "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8": Qwen3(),
    "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326": Qwen3(keeps_thoughts=False, can_skip=False),
    "3802169b2a02b81e6adb7ab4f64f91ff02db753c8c3a64a01c35192d3a61d8d7": Qwen3(answer="<think>\n", can_skip=False),
}
"""Renderings by the hash of the template: Qwen1.5 (two), Qwen2, Qwen2.5 (base, Instruct), Qwen3 (two), its Instruct and
Thinking models of July 2025.
"""


def known_rendering(source: str) -> Render | None:
    """The rendering of a template that is known; line breaks and space around it do not count."""
    text = source.replace("\r\n", "\n").strip()
    return KNOWN.get(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())


def rendered(render: Render, conversation: Conversation) -> str | None:
    """The text of a conversation; None where the template itself has to be evaluated."""
    parts = render(conversation)
    return None if parts is None else joined(parts)
