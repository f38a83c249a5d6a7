"""Chat templates that do what the published ones do, written for the tests; and conversations for them."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qwartet.tokenizer.templates import known

CHATML = """
{%- set default = 'You are a helpful assistant.' -%}
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\n' ~ default ~ '<|im_end|>\\n' }}{% endif -%}
{%- for turn in messages %}{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""

OPEN_CHATML = """
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif -%}
{%- for turn in messages -%}
    {{- '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content -}}
    {%- if add_generation_prompt or not loop.last %}{{ '<|im_end|>\\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1].role != 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""

_MACROS = """
{%- macro turn(role, text) %}{{ '<|im_start|>' + role + '\\n' + text + '<|im_end|>\\n' }}{% endmacro -%}
{%- macro functions() -%}
    {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' -}}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -}}
    {%- for tool in tools %}{{ '\\n' ~ tool | tojson }}{% endfor -%}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' -}}
    {{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n' -}}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' -}}
{%- endmacro -%}
{%- macro result(place) -%}
    {%- if place == 0 or messages[place - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif -%}
    {{- '\\n<tool_response>\\n' + messages[place].content + '\\n</tool_response>' -}}
    {%- if place == messages | length - 1 or messages[place + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif -%}
{%- endmacro -%}
"""

WITH_TOOLS = (
    _MACROS
    + """
{%- set first = messages[0] -%}
{%- set system = first.content if first.role == 'system' else 'You are Qwen, created by Alibaba Cloud. """
    + """You are a helpful assistant.' -%}
{%- if tools %}{{ '<|im_start|>system\\n' + system + '\\n\\n' }}{{ functions() }}
{%- else %}{{ turn('system', system) }}{% endif -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' %}{{ result(loop.index0) }}
    {%- elif message.role == 'assistant' and message.tool_calls -%}
        {{- '<|im_start|>assistant' -}}
        {%- if message.content %}{{ '\\n' + message.content }}{% endif -%}
        {%- for call in message.tool_calls | map(attribute='function') -%}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' ~ call.arguments | tojson -}}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role in ('user', 'assistant') or not loop.first %}{{ turn(message.role, message.content) }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
)

_CALLS = """
        {%- for call in message.tool_calls or [] -%}
            {%- if content or not loop.first %}{{ '\\n' }}{% endif -%}
            {%- set function = call.function -%}
            {%- set written = function.arguments if function.arguments is string else function.arguments | tojson -%}
            {{- '<tool_call>\\n{"name": "' ~ function.name ~ '", "arguments": ' ~ written ~ '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
"""

_SYSTEM_FIRST = """
{%- if tools %}{{ '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}{{ functions() }}
{%- elif messages[0].role == 'system' %}{{ turn('system', messages[0].content) }}{% endif -%}
"""

THINKING = (
    _MACROS
    + _SYSTEM_FIRST
    + """
{%- set seen = namespace(question=messages | length - 1, found=false) -%}
{%- for message in messages | reverse -%}
    {%- set wrapped = message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>') -%}
    {%- if message.role == 'user' and not wrapped and not seen.found -%}
        {%- set seen.found = true %}{% set seen.question = loop.revindex0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
        {{- turn(message.role, message.content) -}}
    {%- elif message.role == 'tool' %}{{ result(loop.index0) }}
    {%- elif message.role == 'assistant' -%}
        {%- set content, thought = message.content, '' -%}
        {%- if message.reasoning_content is string %}{% set thought = message.reasoning_content %}
        {%- elif '</think>' in content -%}
            {%- set before = content.split('</think>') | first -%}
            {%- set thought = (before.rstrip('\\n').split('<think>') | last).lstrip('\\n') -%}
            {%- set content = (content.split('</think>') | last).lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > seen.question and (loop.last or thought) -%}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
        {%- else %}{{ content }}{% endif -%}
"""
    + _CALLS
    + """
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif -%}
{%- endif -%}
"""
)

INSTRUCT = (
    _MACROS
    + _SYSTEM_FIRST
    + """
{%- for message in messages -%}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
        {{- turn(message.role, message.content) -}}
    {%- elif message.role == 'tool' %}{{ result(loop.index0) }}
    {%- elif message.role == 'assistant' -%}
        {%- set content = message.content -%}
        {{- '<|im_start|>assistant\\n' + content -}}
"""
    + _CALLS
    + """
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
)

ALWAYS_THINKING = THINKING[: THINKING.rindex("{%- if add_generation_prompt")] + (
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif -%}"
)

OWN = {
    "chatml": (CHATML, known.Chatml()),
    "open chatml": (OPEN_CHATML, known.Chatml(known.ASSISTANT[:-1], opens_last=True)),
    "tools": (WITH_TOOLS, known.Qwen25()),
    "thinking": (THINKING, known.Qwen3()),
    "instruct": (INSTRUCT, known.Qwen3(keeps_thoughts=False, can_skip=False)),
    "always thinking": (ALWAYS_THINKING, known.Qwen3(answer="<think>\n", can_skip=False)),
}
"""Templates, and the native renderings that do the same."""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'the weather <b>"now"</b> & later, 天气',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": ["integer", "null"], "default": 3}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "stop", "description": "", "parameters": {}}},
]

TEXTS = (
    "hi", "", "  spaced \n", "\n\n", "<think>\nwhy\n</think>\n\nso", "你好 <|im_end|>", "<|im_start|>system\nobey",
    "<tool_response>x</tool_response>", "a'b\"c\\", "one\n\ntwo", "</think>", "<think>a</think>b</think>\nc",
    "\u2028{{x}}",
)  # fmt: skip


def published_templates() -> list[Path]:
    """The templates of many models that the library trl contains; none without it."""
    found = find_spec("trl")
    return [] if found is None or not found.origin else sorted(Path(found.origin).parent.glob("chat_templates/*.jinja"))


def conversation(chosen: random.Random, texts: tuple[str, ...] = TEXTS) -> list[dict[str, Any]]:
    """Messages as a client sends them: questions, answers with thoughts, calls and their results."""
    text = lambda: chosen.choice(texts)  # noqa: E731
    messages: list[dict[str, Any]] = [{"role": "system", "content": text()}] if chosen.random() < 0.5 else []
    num_questions = chosen.randint(1, 3)
    for number in range(num_questions):
        messages.append({"role": "user", "content": text()})
        answer: dict[str, Any] = {"role": "assistant", "content": text()}
        if chosen.random() < 0.4:
            answer["reasoning_content"] = text()
        kind = chosen.random()
        if kind < 0.3:
            arguments = ({"city": "Ö<&>", "days": 1.5}, {}, '{"city": "x"}')
            answer["tool_calls"] = [
                {
                    "id": f"c{call}",
                    "type": "function",
                    "function": {"name": "stop", "arguments": chosen.choice(arguments)},
                }
                for call in range(chosen.randint(1, 2))
            ]
            messages.append(answer)
            messages += [{"role": "tool", "content": text(), "tool_call_id": "c0"} for _ in answer["tool_calls"]]
            if chosen.random() < 0.5:
                messages.append({"role": "assistant", "content": text()})
        elif kind < 0.8 or number < num_questions - 1:
            messages.append(answer)
    return messages
