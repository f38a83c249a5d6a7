"""A request body to the engine's input: prompt ids and SamplingParams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qwartet.engine.sampling_params import MAX_COMPLETIONS, SamplingParams
from qwartet.engine.schema_formats import unenforced_formats
from qwartet.engine.structure import Structure
from qwartet.errors import NotAChatModelError
from qwartet.llm import LLM
from qwartet.openai_api.answer_stream import PLAIN, AnswerReading
from qwartet.openai_api.conversation import invalid, split_system
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerateRequest,
    RequestBody,
    SamplingFields,
    TokenizeRequest,
)
from qwartet.openai_api.template_layout import template_messages
from qwartet.openai_api.tools import ToolChat, tool_chat
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.react import STOP_STRING
from qwartet.tokenizer.templates.conversation import GivenMessage
from qwartet.tokenizer.thinking import begins_in

CHARS_PER_TOKEN = 8  # a longer text cannot fit the context: it is rejected before tokenisation
_SAME_NAMES = (
    "temperature", "top_p", "n", "seed", "presence_penalty", "frequency_penalty", "min_p", "repetition_penalty",
    "min_tokens", "ignore_eos", "stop_token_ids", "priority",
)  # fmt: skip
# The fields that a setting may come from, if their names differ; the first one that a body sets is named in errors.
_FIELDS = {
    "prompt": ("prompt", "messages"),
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens"),
    "structure": ("text", "tools"),
    "tool_calls": ("tools",),
    "enable_thinking": ("chat_template_kwargs", "enable_thinking", "reasoning_effort", "reasoning"),
    "logprobs": ("top_logprobs",),
    "prompt_logprobs": ("logprobs",),
}


@dataclass(frozen=True)
class Prepared:
    """What is queued for one request: its prompts, each for params.n completions."""

    prompts: list[list[int]]
    params: SamplingParams
    prompt_texts: tuple[str, ...] = ()  # echoed before the completions' texts
    is_prompt_only: bool = False  # max_tokens was 0: the one token that the engine makes is dropped
    reading: AnswerReading = PLAIN  # how the answers of a chat are parsed
    notes: tuple[str, ...] = ()  # parts of the request that are not fulfilled, though it is served


def field_of(body: RequestBody, param: str | None) -> str | None:
    """The field of a body behind an error's `param`, which is a setting or the prompt; None if there is none."""
    if param in ("structure", "tool_calls") and isinstance(body, SamplingFields):
        names = [*(_structures(body) if param == "structure" else ()), "tools", "functions"]
    else:
        names = [*_FIELDS.get(param or "", ()), param or ""]
    fields = [name for name in names if name in type(body).model_fields]
    return next((name for name in fields if getattr(body, name) is not None), next(iter(fields), None))


def check_text(llm: LLM, body: GenerateRequest | TokenizeRequest) -> None:
    """ApiError for a text that cannot fit, before it is tokenised."""
    most = CHARS_PER_TOKEN * llm.engine.max_model_len
    if body.num_chars > most:
        param = field_of(body, "prompt") or "prompt"
        what = f"your {param} has {body.num_chars} characters, and at most {most} can fit"
        raise _too_long(llm, what, param)


def prepare_chat(llm: LLM, body: ChatCompletionRequest) -> Prepared:
    """RequestError, SettingError or NotAChatModelError if it cannot be served; text never becomes special tokens."""
    if not llm.generation_defaults.is_chat:
        raise NotAChatModelError(f"{llm.generation_defaults.chat_refusal}, or /v1/completions")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    max_tokens = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    if body.max_completion_tokens not in (None, max_tokens):
        message = "max_tokens and max_completion_tokens differ; set only one of them"
        raise ApiError(400, message, param="max_tokens", code="invalid_value")
    tools = tool_chat(body, llm.answer_form.tools)
    params = _sampling_params(
        llm, body, max_tokens=max_tokens, logprobs=(body.top_logprobs or 0) if body.logprobs else None
    )
    if tools is not None:
        tools = replace(tools, tells_thought=params.structure is None)
        params = _with_tools(params, tools)
    prompt_ids = chat_prompt_ids(llm, body, tools)
    _check_length(llm, [prompt_ids], "messages")
    is_begun = body.continue_final_message is True and body.messages[-1].text != ""
    thinking = begins_in(llm.tokenizer, prompt_ids, has_text=is_begun)
    if params.structure is not None:
        params = replace(params, structure=replace(params.structure, thinking=thinking))
    reading = AnswerReading(tools, thinking, tells_reasoning=body.include_reasoning is not False)
    return Prepared([prompt_ids], params, reading=reading, notes=_notes(params))


def chat_prompt_ids(llm: LLM, body: ChatCompletionRequest, tools: ToolChat | None) -> list[int]:
    """The prompt of a conversation; `tools` is what `tool_chat` returns for it."""
    turns = _plain_turns(llm, body) if tools is None else tools.messages
    answer_start = "" if tools is None else tools.answer_start
    with_answer = body.add_generation_prompt is not False
    if body.continue_final_message:
        turns, answer_start = _begun_answer(body, turns, has_tools=tools is not None)
        with_answer = True
    form = llm.thinking_form(body.wants_thinking(llm.answer_form.thinking))
    if tools is not None and tools.shown:
        form["tools"] = tools.shown
    return llm.prompt_ids(turns, with_answer, answer_start=answer_start, **form)


def _begun_answer(
    body: ChatCompletionRequest, turns: list[GivenMessage], *, has_tools: bool
) -> tuple[list[GivenMessage], str]:
    """The turns before the last message, and its text, which the answer continues."""
    reason, last = None, body.messages[-1]
    if body.add_generation_prompt:
        reason = "and add_generation_prompt are both true; set one of them to false"
    elif has_tools:
        reason = "does not work with tools; leave one of them out"
    elif last.role != "assistant":
        reason = "needs an assistant message at the end of messages; append the text to continue"
    if reason is not None:
        raise invalid("continue_final_message", f"continue_final_message {reason}")
    return turns[:-1], last.text


def _with_tools(params: SamplingParams, tools: ToolChat) -> SamplingParams:
    """The settings of a chat with tools: in ReAct it stops before a tool's result; and it makes required calls."""
    structure, calls = params.structure, tools.calls
    if structure is not None and tools.offered is not None and not (calls is not None and calls.is_required):
        calls = replace(calls or tools.offered, schemas=dict((calls or tools.offered).schemas), answer=structure)
    if calls is not None:
        structure = Structure(tool_calls=calls)
    stop = (*params.stop, STOP_STRING) if tools.form == "react" else params.stop
    return replace(params, stop=stop, structure=structure)


def _plain_turns(llm: LLM, body: ChatCompletionRequest) -> list[GivenMessage]:
    """The turns of a conversation without tools; leading system messages become one."""
    if llm.family.has_templates:
        return list(template_messages(body.messages))
    system, others = split_system(body.messages)
    turns: list[GivenMessage] = [] if system is None else [Message("system", system)]
    roles = {"developer": "system"}
    return turns + [Message(roles.get(message.role, message.role), message.text) for message in others]


def _notes(params: SamplingParams) -> tuple[str, ...]:
    formats = () if params.structure is None else unenforced_formats(params.structure)
    return tuple(f"the schema's format {name!a:.40} is not enforced" for name in formats)


def prepare_completion(llm: LLM, body: CompletionRequest) -> Prepared:
    """RequestError or SettingError if it cannot be served; text never becomes special tokens."""
    prompts = _prompt_ids(llm, body.prompt)
    num_completions = body.n or 1
    if body.best_of not in (None, num_completions):
        message = f"best_of is {body.best_of}; it must equal n ({num_completions})"
        raise ApiError(400, message, param="best_of", code="invalid_value")
    if len(prompts) > 1 and len(prompts) * num_completions > MAX_COMPLETIONS:
        message = f"{len(prompts)} prompts with n {num_completions}; at most {MAX_COMPLETIONS} completions are allowed"
        raise ApiError(400, message, param="prompt", code="invalid_value")
    is_prompt_only = body.max_tokens == 0 and body.echo is True
    params = _sampling_params(
        llm,
        body,
        max_tokens=1 if is_prompt_only else body.max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    _check_length(llm, prompts, "prompt")
    texts = tuple(llm.tokenizer.decode(prompt) for prompt in prompts) if body.echo else ()
    return Prepared(prompts, params, texts, is_prompt_only, notes=_notes(params))


def _prompt_ids(llm: LLM, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
    """The ids of each prompt; the engine rejects invalid ids."""
    parts: list[Any] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)
    return [llm.tokenizer.encode(part) if isinstance(part, str) else part for part in parts]


def _too_long(llm: LLM, what: str, param: str) -> ApiError:
    """In OpenAI's words, which tell clients to shorten a conversation."""
    length = llm.engine.max_model_len
    message = f"This model's maximum context length is {length} tokens. However, {what}. Please reduce the length."
    return ApiError(400, message, param=param, code="context_length_exceeded")


def _check_length(llm: LLM, prompts: list[list[int]], param: str) -> None:
    longest = max(map(len, prompts))
    if longest >= llm.engine.max_model_len:
        raise _too_long(llm, f"your {param} resulted in {longest} tokens", param)


def _sampling_params(llm: LLM, body: SamplingFields, **settings: Any) -> SamplingParams:
    """The body's settings over the checkpoint's defaults; SettingError for one out of bounds."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options", code="invalid_value")
    settings |= {name: getattr(body, name) for name in _SAME_NAMES}
    if body.stop is not None:
        settings["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.top_k is not None:
        settings["top_k"] = 0 if body.top_k == -1 else body.top_k
    if body.logit_bias is not None:
        settings["logit_bias"] = tuple((_token_id(key), value) for key, value in body.logit_bias.items())
    return llm.sampling_params(**settings, structure=_structure(body))


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        message = f"logit_bias has the key {key!r:.40}; keys must be token ids"
        raise ApiError(400, message, param="logit_bias", code="invalid_value")
    return int(key)


def _structure(body: SamplingFields) -> Structure | None:
    """The constraint on the text, from whichever field sets it; ApiError if several do."""
    wanted = body.response_format
    if wanted is not None and (wanted.type == "json_schema") != (wanted.json_schema is not None):
        message = "response_format: the type json_schema and the field json_schema must be set together"
        raise ApiError(400, message, param="response_format", code="invalid_value")
    asked = _structures(body)
    if len(asked) > 1:
        message = f"{' and '.join(asked)} are mutually exclusive; set only one"
        raise ApiError(400, message, param=list(asked)[1], code="invalid_value")
    return Structure(**next(iter(asked.values()))) if asked else None


def _structures(body: SamplingFields) -> dict[str, dict[str, Any]]:
    """The constraints on the text, by the field that sets each."""
    asked: dict[str, dict[str, Any]] = {}
    if (wanted := body.response_format) is not None:
        if wanted.json_schema is not None:
            asked["response_format"] = {"json_schema": wanted.json_schema.schema_}
        elif wanted.type == "json_object":
            asked["response_format"] = {"json_object": True}
    if (outputs := body.structured_outputs) is not None:
        asked["structured_outputs"] = {
            "json_schema": outputs.json_,
            "json_object": bool(outputs.json_object),
            "regex": outputs.regex,
            "choice": None if outputs.choice is None else tuple(outputs.choice),
        }
    for name, kind in (("guided_json", "json_schema"), ("guided_regex", "regex"), ("guided_choice", "choice")):
        if getattr(body, name) is not None:
            asked[name] = {kind: getattr(body, name)}
    return asked
