"""Prompt ids of a conversation in the checkpoint's own form, as build_prompt of chatml.py gives those of ChatML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from qwartet.errors import NotAChatModelError
from qwartet.tokenizer.hf_tokenizer import HfTokenizer
from qwartet.tokenizer.templates.conversation import Conversation, GivenMessage
from qwartet.tokenizer.templates.known import Chatml, rendered
from qwartet.tokenizer.vocabulary import IM_END, IM_START


class PromptForm(TypedDict, total=False):
    """What a chat template takes besides messages."""

    tools: Sequence[Mapping[str, Any]] | None
    enable_thinking: bool | None
    template_settings: Mapping[str, Any] | None


def template_prompt(
    tokenizer: HfTokenizer,
    messages: Sequence[GivenMessage],
    add_generation_prompt: bool = True,
    *,
    answer_start: str = "",
    tools: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    template_settings: Mapping[str, Any] | None = None,
) -> list[int]:
    """Prompt ids from the checkpoint's chat template; special tokens in messages and tools are plain text.

    `messages` are Messages, or OpenAI's with tool_calls and reasoning_content. `answer_start` is text that the
    assistant's answer begins with: the prompt ends after it, inside the turn. `enable_thinking` None: as the template
    has it. Without a template, the form is ChatML, as that of Qwen2; NotAChatModelError where the vocabulary lacks its
    tokens. RequestError, ChatTemplateError: see ChatTemplate.render.
    """
    settings = dict(template_settings or {})
    if enable_thinking is not None:
        settings["enable_thinking"] = enable_thinking
    continues = add_generation_prompt and answer_start != ""
    if continues:
        messages = [*messages, {"role": "assistant", "content": answer_start}]
    if tokenizer.chat_template is not None:
        text = tokenizer.chat_template.render(
            messages,
            tools,
            add_generation_prompt=add_generation_prompt and not continues,
            continue_final_message=continues,
            **settings,
        )
        return tokenizer.encode_traced(text)
    if not {IM_START, IM_END} <= tokenizer.special_tokens.keys():
        raise NotAChatModelError("this model has no chat template, and no tokens for ChatML; use its chat version")
    return _chatml_ids(tokenizer, messages, add_generation_prompt, continues)


def _chatml_ids(
    tokenizer: HfTokenizer, messages: Sequence[GivenMessage], add_generation_prompt: bool, continues: bool
) -> list[int]:
    conversation = Conversation.of(messages, None, add_generation_prompt and not continues, {})
    text = rendered(Chatml(opens_last=continues), conversation)
    if text is None:
        raise NotAChatModelError("without a chat template, contents must be text; send texts")
    return tokenizer.encode_traced(text)
