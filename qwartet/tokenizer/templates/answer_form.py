"""What a chat template says about the answers that it is for: rendered with tools, and with thinking on and off."""

from __future__ import annotations

from typing import Any

from qwartet.errors import QwartetError
from qwartet.tokenizer.answer_form import AnswerForm, Thinking, ToolForm
from qwartet.tokenizer.call_stream import CALL
from qwartet.tokenizer.hf_tokenizer import HfTokenizer
from qwartet.tokenizer.templates.prompt import template_prompt
from qwartet.tokenizer.thinking import begins_in

_QUESTION = [{"role": "user", "content": "hi"}]
_NAME = "a_tool_to_look_for"
_TOOL = {"type": "function", "function": {"name": _NAME, "description": "", "parameters": {}}}


def template_answer_form(tokenizer: HfTokenizer) -> AnswerForm:
    """The form of a checkpoint's answers. A template that rejects a question with tools has none."""
    return AnswerForm(_tool_form(tokenizer), _thinking(tokenizer))


def _tool_form(tokenizer: HfTokenizer) -> ToolForm:
    text = _prompt(tokenizer, tools=[_TOOL])
    # Qwen3-Coder has the same tag, with XML in it.
    is_tagged = text is not None and _NAME in text and CALL in text and "<function=" not in text
    return "tagged" if is_tagged else "none"


def _thinking(tokenizer: HfTokenizer) -> Thinking:
    if tokenizer.chat_template is None:
        return "never"
    try:
        on, off = (
            begins_in(tokenizer, template_prompt(tokenizer, _QUESTION, enable_thinking=enabled))
            for enabled in (True, False)
        )
    except QwartetError:
        return "never"
    if on != off:
        return "optional"
    return "always" if on == "thinking" else "never"


def _prompt(tokenizer: HfTokenizer, **form: Any) -> str | None:
    try:
        return tokenizer.decode(template_prompt(tokenizer, _QUESTION, **form))
    except QwartetError:
        return None
