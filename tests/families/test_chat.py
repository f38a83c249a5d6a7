"""Qwen2 and Qwen3 chat in the form of their checkpoint: in Python, on the command line and through the API."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from qwartet import LLM
from qwartet.engine.async_engine import AsyncEngine
from qwartet.errors import NotAChatModelError, RequestError, VocabularyError
from qwartet.models.inspection import inspect_checkpoint
from qwartet.openai_api.endpoints import Endpoints
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.prepare import prepare_chat
from qwartet.openai_api.protocol import ChatCompletionRequest
from qwartet.openai_api.token_ids import detokenize, tokenize, tokenizer_info
from qwartet.tokenizer.chatml import Message
from tests.cli.command_line import CommandLine
from tests.tokenizer.hf_files import small_content, write_tokenizer
from tests.tokenizer.own_templates import CHATML, THINKING, TOOLS
from tests.tokenizer.vocabularies import SMALL_N

HELLO = [{"role": "user", "content": "hello <|im_end|>"}]
EOS = [SMALL_N + 2, SMALL_N]


@pytest.fixture
def chat_model(copied: Callable[[str], Path]) -> Callable[..., Path]:
    """A checkpoint with a tokenizer and, unless it is None, this template."""

    def write(case: str, template: str | None) -> Path:
        directory = write_tokenizer(copied(case), small_content(), template)
        settings = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": EOS}
        (directory / "generation_config.json").write_text(json.dumps({**settings, "max_new_tokens": 6}))
        return directory

    return write


def loaded(directory: Path, **options: Any) -> LLM:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return LLM(directory, device="cpu", dtype="fp32", weight_cache=False, max_model_len=256, **options)


@pytest.mark.parametrize(("case", "template"), [("qwen2", CHATML), ("qwen3", THINKING)])
def test_a_checkpoint_chats_in_its_own_form(case: str, template: str, chat_model: Callable[..., Path]) -> None:
    directory = chat_model(case, template)
    stock = AutoTokenizer.from_pretrained(directory)
    with loaded(directory) as llm:
        messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}, *HELLO]
        calm = [{**message, "content": message["content"].replace("<|im_end|>", "")} for message in messages]
        expected = stock.apply_chat_template(calm, add_generation_prompt=True, return_dict=False)
        assert llm.prompt_ids([Message(**message) for message in calm]) == llm.prompt_ids(calm) == expected
        assert llm.prompt_ids(messages).count(llm.tokenizer.im_end_id) == expected.count(llm.tokenizer.im_end_id)
        assert set(EOS) < set(llm.stop_token_ids) == {*EOS, llm.tokenizer.im_start_id}
        params = llm.sampling_params()
        assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.7, 20, 0.8, 6)
        answer, history = llm.chat("hello", do_sample=False)
        assert history == [("hello", answer)]
        [completion] = llm.generate([llm.prompt_ids(calm[:1])], llm.sampling_params(do_sample=False))
        assert completion.text.strip() == answer
        assert all(token_id < llm.tokenizer.num_tokens for token_id in completion.token_ids)
        assert (
            "".join(llm.chat_stream("hello", history, do_sample=False))
            == llm.chat("hello", history, do_sample=False)[0]
        )


def test_tools_and_thinking_reach_the_template(chat_model: Callable[..., Path]) -> None:
    directory = chat_model("qwen3", THINKING)
    stock = AutoTokenizer.from_pretrained(directory)
    with loaded(directory) as llm:
        messages = [{"role": "user", "content": "hello"}]
        for settings in ({"tools": TOOLS}, {"enable_thinking": False}, {"tools": TOOLS, "enable_thinking": True}):
            expected = stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **settings)
            assert llm.prompt_ids(messages, **settings) == expected


def test_the_first_generation_takes_no_settings_of_a_template(pristine: Callable[..., Path]) -> None:
    with LLM(pristine(), device="cpu") as llm, pytest.raises(RequestError, match="enable_thinking needs a model with"):
        llm.prompt_ids([Message("user", "hi")], enable_thinking=False)


def test_the_system_prompt_is_the_template_s_unless_one_is_passed(chat_model: Callable[..., Path]) -> None:
    directory = chat_model("qwen2", CHATML)
    with loaded(directory) as llm:
        params = llm.sampling_params()
        own = llm.tokenizer.decode(llm.chat_prompt("hi", [], None, params))
        assert own.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
        other = llm.tokenizer.decode(llm.chat_prompt("hi", [], "Be brief", params))
        assert other.startswith("<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nhi")
    with loaded(write_tokenizer(directory, small_content(), THINKING)) as llm:
        assert llm.tokenizer.decode(llm.chat_prompt("hi", [], None, params)).startswith("<|im_start|>user\nhi")


def test_a_model_without_a_template_completes_text(chat_model: Callable[..., Path]) -> None:
    directory = chat_model("qwen2", None)
    with loaded(directory) as llm:
        assert len(llm.generate(["hello"], llm.sampling_params(do_sample=False))) == 1
        with pytest.raises(NotAChatModelError, match="chat_format raw"):
            llm.chat("hello")
    with loaded(directory, chat_format="chatml") as llm:
        assert llm.tokenizer.decode(llm.prompt_ids([Message("user", "hi")])).endswith("<|im_start|>assistant\n")
        llm.chat("hello", do_sample=False)


def test_a_tokenizer_that_contradicts_the_config_is_refused(chat_model: Callable[..., Path]) -> None:
    directory = chat_model("qwen2", CHATML)
    content = json.loads(small_content())
    content["added_tokens"][-1]["id"] = 320  # the embedding has 320 rows
    write_tokenizer(directory, json.dumps(content), CHATML)
    with pytest.raises(VocabularyError, match=r"has 321 tokens, but vocab_size in config\.json is 320"):
        loaded(directory)
    (directory / "tokenizer.json").unlink()
    missing = pytest.raises(VocabularyError, match=r"holds no tokenizer\.json; copy tokenizer\.json into it")
    with loaded(directory) as llm, missing:
        llm.chat("hello")


def test_the_api_uses_the_template(chat_model: Callable[..., Path]) -> None:
    with loaded(chat_model("qwen3", THINKING)) as llm:
        expected = llm.prompt_ids(HELLO)
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello <|im_end|>"}]}]}
        [prompt] = prepare_chat(llm, ChatCompletionRequest.model_validate(body)).prompts
        assert prompt == expected
        messages = [*HELLO, {"role": "assistant", "content": "So"}]
        continued = {"messages": messages, "continue_final_message": True}
        [prompt] = prepare_chat(llm, ChatCompletionRequest.model_validate(continued)).prompts
        assert llm.tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nSo")

        async def answers() -> tuple[Any, Any, Any]:
            async with AsyncEngine(llm.engine) as engine:
                endpoints = Endpoints(llm, engine, ["model"])
                found = tokenize(endpoints, {"messages": HELLO, "return_token_strs": True})
                return found, tokenizer_info(endpoints), detokenize(endpoints, {"tokens": found["tokens"]})

        found, info, text = asyncio.run(answers())
        assert found["tokens"] == expected and found["token_strs"][0] == "<|im_start|>"
        assert (info["chat_template"], info["eos_token"], info["eos_token_id"]) == (THINKING, "<|endoftext|>", SMALL_N)
        assert text["prompt"] == llm.tokenizer.decode(expected)


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs"])
def test_a_template_never_comes_from_a_request(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ChatCompletionRequest.model_validate({"messages": HELLO, field: {"chat_template": "x"}})


def test_a_template_that_rejects_a_conversation_is_an_error_of_the_request(chat_model: Callable[..., Path]) -> None:
    with loaded(chat_model("qwen2", "{{ raise_exception('questions only') }}")) as llm:

        async def answer() -> Any:
            async with AsyncEngine(llm.engine) as engine:
                return tokenize(Endpoints(llm, engine, ["model"]), {"messages": HELLO})

        with pytest.raises(
            ApiError, match="the model's chat template rejects the conversation: questions only"
        ) as caught:
            asyncio.run(answer())
        assert (caught.value.status, caught.value.param) == (400, "messages")


def test_the_command_line_chats(chat_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    directory = chat_model("qwen2", CHATML)
    outcome = CommandLine(capsys)("chat", directory, "hello", "--greedy", "--device", "cpu", "--dtype", "fp32", "-q")
    with loaded(directory) as llm:
        assert (outcome.code, outcome.out) == (0, llm.chat("hello", do_sample=False)[0] + "\n")


@pytest.mark.parametrize(("template", "words"), [(CHATML, "a chat template of its own"), (None, "no chat template")])
def test_inspect_tells_of_the_tokenizer(
    template: str | None, words: str, chat_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = chat_model("qwen2", template)
    found = inspect_checkpoint(directory)
    assert not found.problems and found.tokenizer is not None
    assert (found.tokenizer["file"], found.tokenizer["num_tokens"]) == ("tokenizer.json", SMALL_N + 9)
    outcome = CommandLine(capsys)("inspect", directory)
    assert f"tokenizer.json: {SMALL_N} tokens, {SMALL_N + 9} ids; {words}" in outcome.out
    (directory / "tokenizer.json").write_text("{")
    assert any("is not valid JSON" in problem for problem in inspect_checkpoint(directory).problems)
