"""Chat templates give the text and the ids of transformers' apply_chat_template."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import SecurityError
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from qwartet.errors import ChatTemplateError, RequestError
from qwartet.tokenizer.chatml import CHAT_TEMPLATE as QWEN1_CHATML
from qwartet.tokenizer.chatml import Message, build_prompt
from qwartet.tokenizer.hf_tokenizer import HfTokenizer
from qwartet.tokenizer.templates import known
from qwartet.tokenizer.templates.conversation import Conversation
from qwartet.tokenizer.templates.prompt import template_prompt
from qwartet.tokenizer.templates.template import ChatTemplate
from tests.tokenizer.hf_files import demo_content, hf_tokenizer
from tests.tokenizer.own_templates import CHATML, OWN, THINKING, TOOLS, conversation, published_templates

PLAIN_TEXTS = (
    "hi",
    "",
    "  spaced \n",
    "\n\n",
    "你好",
    "a'b\"c\\",
    "one\n\ntwo",
    "e\u0301",
    "\u0338x",
    "CONTINUE_FINAL",
)
SETTINGS = ({}, {"enable_thinking": True}, {"enable_thinking": False})


@cache
def tokenizer_with(template: str) -> HfTokenizer:
    return hf_tokenizer(demo_content(), template)


@cache
def reference() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(demo_content())
    return PreTrainedTokenizerFast(tokenizer_object=library, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def cases(count: int, seed: int, texts: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """Arguments of a rendering."""
    chosen = random.Random(seed)
    made = []
    for number in range(count):
        messages = conversation(chosen) if texts is None else conversation(chosen, texts)
        tools = TOOLS if chosen.random() < 0.4 else None
        settings = SETTINGS[number % len(SETTINGS)]
        made.append({"messages": messages, "tools": tools, "add_generation_prompt": number % 2 == 0, **settings})
    return made


def expected_text(template: str, messages: Any, **arguments: Any) -> str | None:
    """What transformers renders; None where it fails."""
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    try:
        [text], _ = render_jinja_template([messages], chat_template=template, **arguments, **tokens)
    except (TemplateError, SecurityError, TypeError, ValueError):
        return None
    return text


def rendered(template: ChatTemplate, messages: Any, **arguments: Any) -> str | None:
    """What we render; None where we refuse."""
    try:
        return str(template.render(messages, **arguments))
    except ChatTemplateError:
        return None


@pytest.mark.parametrize("name", OWN)
def test_the_text_is_that_of_transformers(name: str) -> None:
    source, _ = OWN[name]
    template = tokenizer_with(source).chat_template
    assert template is not None
    for arguments in cases(60, 1):
        assert rendered(template, **arguments) == expected_text(source, **arguments), arguments


@pytest.mark.parametrize("path", published_templates(), ids=lambda path: path.stem)
def test_the_text_of_published_templates_is_that_of_transformers(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    template = ChatTemplate(source, path, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    for arguments in cases(12, 2):
        assert rendered(template, **arguments) == expected_text(source, **arguments), arguments


@pytest.mark.parametrize("name", OWN)
def test_the_ids_are_those_of_transformers_where_no_text_contains_a_token(name: str) -> None:
    source, _ = OWN[name]
    tokenizer = tokenizer_with(source)
    for arguments in cases(30, 3, PLAIN_TEXTS):
        messages, with_answer = arguments.pop("messages"), arguments.pop("add_generation_prompt")
        ids = template_prompt(tokenizer, messages, with_answer, **arguments)
        expected = reference().apply_chat_template(
            messages, add_generation_prompt=with_answer, chat_template=source, return_dict=False, **arguments
        )
        assert ids == expected, (messages, arguments)


@pytest.mark.parametrize("name", ["chatml", "tools", "thinking"])
@pytest.mark.parametrize("end", ["So", "So  ", "\n", "a\n\n", "", "CONTINUE_FINAL_MESSAGE_TAG ", "<think>x</think>y"])
def test_an_answer_goes_on_where_transformers_lets_it(name: str, end: str) -> None:
    source, _ = OWN[name]
    template = tokenizer_with(source).chat_template
    assert template is not None
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": end}]
    arguments = {"messages": messages, "continue_final_message": True}
    assert rendered(template, **arguments) == expected_text(source, **arguments)


def test_an_answer_cannot_go_on_where_the_template_leaves_it_out() -> None:
    template = ChatTemplate("{{ messages[0].content }}", "x")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "So"}]
    with pytest.raises(ChatTemplateError, match="leaves out the end of the last message"):
        template.render(messages, continue_final_message=True)
    with pytest.raises(RequestError, match="exclude each other"):
        template.render(messages, continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(RequestError, match="needs text in the last message"):
        template.render([{"role": "assistant", "tool_calls": []}], continue_final_message=True)


def test_a_content_in_parts_can_be_continued() -> None:
    source = "{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}]
    arguments = {"messages": [{"role": "assistant", "content": parts}], "continue_final_message": True}
    assert rendered(ChatTemplate(source, "x"), **arguments) == "[a][b" == expected_text(source, **arguments)


# Known templates


def check_native(source: str, native: known.Render, seed: int) -> None:
    template = ChatTemplate(source, "x")
    num_native = 0
    for arguments in cases(80, seed):
        messages, tools, with_answer = (arguments.pop(key) for key in ("messages", "tools", "add_generation_prompt"))
        given = Conversation.of(messages, tools, with_answer, arguments)
        ours = known.rendered(native, given)
        if ours is None:
            continue
        num_native += 1
        theirs = template.evaluated(given)
        assert (ours, ours.marks) == (theirs, theirs.marks), given  # type: ignore[attr-defined]
    assert num_native > 70


@pytest.mark.parametrize("name", OWN)
def test_the_native_text_is_the_one_of_a_template_that_does_the_same(name: str) -> None:
    check_native(*OWN[name], seed=4)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507"])
def test_the_published_templates_are_known_and_rendered_alike(name: str) -> None:
    path = next((path for path in published_templates() if path.stem == name), None)
    if path is None:
        pytest.skip("trl, which contains the template, is not installed")
    source = path.read_text(encoding="utf-8")
    native = known.known_rendering(source)
    assert native is not None and known.known_rendering(f"\n{source} \r\n".replace("\n", "\r\n")) == native
    check_native(source, native, seed=5)
    assert known.known_rendering(source.replace("assistant", "Assistant", 1)) is None


def test_a_known_template_gives_the_same_ids_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    digest = hashlib.sha256(THINKING.strip().encode()).hexdigest()
    slow = tokenizer_with(THINKING)
    monkeypatch.setitem(known.KNOWN, digest, known.Qwen3())
    fast = hf_tokenizer(demo_content(), THINKING)
    assert fast.chat_template is not None and fast.chat_template.is_known
    assert slow.chat_template is not None and not slow.chat_template.is_known
    monkeypatch.setattr(fast.chat_template, "evaluated", None)  # calling it would fail
    for arguments in cases(40, 6):
        messages, with_answer = arguments.pop("messages"), arguments.pop("add_generation_prompt")
        assert template_prompt(fast, messages, with_answer, **arguments) == template_prompt(
            slow, messages, with_answer, **arguments
        )


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user"},
        {"role": "assistant", "content": "x", "tool_calls": [{"name": "f", "arguments": {}}]},
        {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "assistant", "content": "x", "reasoning_content": 7},
    ],
)
def test_a_conversation_in_another_form_is_left_to_the_template(message: dict[str, Any]) -> None:
    given = Conversation.of([{"role": "user", "content": "q"}, message], None, True, {})
    assert known.rendered(known.Qwen3(), given) is None


# Prompts


def test_the_messages_of_the_first_generation_give_its_ids() -> None:
    """Its ChatML as a template: what build_prompt gives, where no text begins or ends with white space."""
    tokenizer = tokenizer_with(QWEN1_CHATML)
    messages = [Message("user", "hi <|im_end|>"), Message("assistant", "yes"), Message("user", "why?")]
    assert template_prompt(tokenizer, messages) == build_prompt(tokenizer, messages)
    assert template_prompt(tokenizer, messages, False) == build_prompt(tokenizer, messages, False)


def test_without_a_template_the_form_is_chatml() -> None:
    bare = hf_tokenizer(demo_content())
    messages = [Message("user", "hi"), Message("assistant", "yes"), Message("user", "why?")]
    for with_answer in (True, False):
        assert template_prompt(bare, messages, with_answer) == template_prompt(
            tokenizer_with(CHATML), messages, with_answer
        )
    assert template_prompt(bare, messages, answer_start="So") == template_prompt(
        tokenizer_with(CHATML), messages, answer_start="So"
    )


def test_an_answer_that_begins_with_text_ends_the_prompt_inside_its_turn() -> None:
    tokenizer = tokenizer_with(CHATML)
    ids = template_prompt(tokenizer, [Message("user", "hi")], answer_start="So <|im_end|>")
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\nSo <|im_end|>")
    assert ids[-1] != tokenizer.im_end_id


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "the conversation is empty"),
        (["hi"], "message 1 is 'hi'"),
        ([{"content": "hi"}], "message 1 is"),
        ([{"role": 7, "content": "hi"}], "message 1 is"),
        ([{"role": "user", "content": "hi"}, {"role": "<|im_end|>", "content": "hi"}], "message 2 has the role"),
        ([{"role": "user", "content": {1: 2}}], "keys that are not text"),
        ([{"role": "user", "content": object()}], "contains object; use the types of JSON"),
        ([{"role": "user", "content": json.loads("[" * 90 + "]" * 90)}], "nested more than 64 deep"),
    ],
)
def test_messages_in_a_wrong_form_are_refused(messages: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        template_prompt(tokenizer_with(CHATML), messages)
    assert caught.value.param == "messages"


def test_a_template_says_why_it_rejects_a_conversation() -> None:
    source = "{% if messages[0].role != 'user' %}{{ raise_exception('start with\\na question') }}{% endif %}ok"
    template = ChatTemplate(source, "x")
    assert template.render([{"role": "user", "content": ""}]) == "ok"
    with pytest.raises(ChatTemplateError, match=r"rejects the conversation: start with\s+a question") as caught:
        template.render([{"role": "assistant", "content": ""}])
    assert caught.value.param == "messages"


def test_an_error_names_the_line_of_the_template() -> None:
    template = ChatTemplate("a\n{% for m in messages %}\n{{ m.content.nothing.more }}\n{% endfor %}", "x")
    with pytest.raises(ChatTemplateError, match="fails in line 3: there is no attribute 'nothing' of a text"):
        template.render([{"role": "user", "content": "hi"}])
