"""Engine outputs to a response object: texts, finish reasons, log-probabilities, usage."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from qwartet import __version__
from qwartet.engine.async_engine import StreamOutput
from qwartet.engine.request import TokenLogprobs
from qwartet.llm import LLM
from qwartet.openai_api.answer_objects import (
    AnyUsage,
    ChatChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionTokensDetails,
    FinishReason,
    PromptTokensDetails,
    ThinkingUsage,
    TopLogprob,
    Usage,
)
from qwartet.openai_api.answer_stream import answer_message
from qwartet.openai_api.prepare import Prepared
from qwartet.openai_api.shown_tokens import ShownTokens, TextOffsets
from qwartet.tokenizer.thinking import num_reasoning_tokens
from qwartet.tokenizer.tokenizer import Tokenizer

FINGERPRINT = f"qwartet-{__version__}"
MIN_LOGPROB = -9999.0  # OpenAI's value for an impossible token; JSON has no infinity


def chat_completion(llm: LLM, model: str, prepared: Prepared, outputs: Sequence[StreamOutput]) -> ChatCompletion:
    """The answer to a chat; `outputs` are complete, one per completion."""
    return ChatCompletion(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=model,
        choices=[_chat_choice(llm, prepared, output) for output in outputs],
        usage=usage_of(llm.tokenizer, [outputs], prepared),
        system_fingerprint=FINGERPRINT,
    )


def completion(llm: LLM, model: str, prepared: Prepared, outputs: Sequence[Sequence[StreamOutput]]) -> Completion:
    """The answer to a completion request; `outputs` are complete, grouped by prompt."""
    choices: list[CompletionChoice] = []
    for place, of_prompt in enumerate(outputs):
        prompt_text = prepared.prompt_texts[place] if prepared.prompt_texts else None
        for output in of_prompt:
            choices.append(_completion_choice(llm, len(choices), prepared, prompt_text, output))
    return Completion(
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=model,
        choices=choices,
        usage=usage_of(llm.tokenizer, outputs, prepared),
        system_fingerprint=FINGERPRINT,
    )


def _chat_choice(llm: LLM, prepared: Prepared, output: StreamOutput) -> ChatChoice:
    logprobs = None
    if prepared.params.logprobs is not None:
        logprobs = chat_logprobs(llm.tokenizer, ShownTokens(llm.tokenizer).push(output))
    message, reason = answer_message(prepared.reading, output.text, finish_reason(output))
    return ChatChoice(index=output.index, message=message, logprobs=logprobs, finish_reason=reason)


def chat_logprobs(tokenizer: Tokenizer, shown: Sequence[TokenLogprobs]) -> ChatLogprobs:
    """The log-probabilities of some tokens of a chat."""
    return ChatLogprobs(
        content=[
            ChatLogprob(
                **_top_logprob(tokenizer, one.token_id, one.logprob).model_dump(),
                top_logprobs=[_top_logprob(tokenizer, *pair) for pair in one.top],
            )
            for one in shown
        ]
    )


def _completion_choice(
    llm: LLM, index: int, prepared: Prepared, prompt_text: str | None, output: StreamOutput
) -> CompletionChoice:
    text = "" if prepared.is_prompt_only else output.text
    logprobs: CompletionLogprobs | None = None
    if prepared.params.logprobs is not None:
        shown = [] if prepared.is_prompt_only else ShownTokens(llm.tokenizer).push(output)
        told: list[tuple[int, TokenLogprobs | None]] = [(one.token_id, one) for one in shown]
        if prompt_text is not None:
            told = [*zip(output.request.prompt_ids, output.request.prompt_logprobs, strict=True), *told]
        offsets = TextOffsets(llm.tokenizer, with_special=True)
        logprobs = completion_logprobs(llm.tokenizer, offsets, told, has_top=prepared.params.logprobs > 0)
    return CompletionChoice(
        index=index,
        text=(prompt_text or "") + text,
        logprobs=logprobs,
        finish_reason="length" if prepared.is_prompt_only else finish_reason(output),
    )


def completion_logprobs(
    tokenizer: Tokenizer, offsets: TextOffsets, told: list[tuple[int, TokenLogprobs | None]], *, has_top: bool
) -> CompletionLogprobs:
    """The log-probabilities of some tokens of a completion that `offsets` has not seen yet."""
    tops: list[dict[str, float] | None] = []
    for _, one in told:
        if one is None or not has_top:
            tops.append(None)
        else:
            pairs = [*one.top, (one.token_id, one.logprob)]
            tops.append({_legacy_token(tokenizer, token_id): _finite(logprob) for token_id, logprob in pairs})
    return CompletionLogprobs(
        text_offset=[offsets.push(token_id) for token_id, _ in told],
        token_logprobs=[None if one is None else _finite(one.logprob) for _, one in told],
        tokens=[_legacy_token(tokenizer, token_id) for token_id, _ in told],
        top_logprobs=tops,
    )


def finish_reason(output: StreamOutput) -> FinishReason:
    """Why a completion ended, in OpenAI's terms."""
    assert output.finish_reason in ("stop", "length"), f"{output.finish_reason} is not the end of an answer"
    return output.finish_reason


def usage_of(tokenizer: Tokenizer, outputs: Sequence[Sequence[StreamOutput]], prepared: Prepared) -> AnyUsage:
    """The usage of all completions of each prompt."""
    num_cached_tokens = sum(some[0].request.num_cached_tokens for some in outputs)
    num_tokens = sum(len(one.token_ids) for some in outputs for one in some)
    usage = usage_of_tokens(num_tokens, num_cached_tokens, prepared)
    thinking = prepared.reading.thinking
    if thinking == "answer":
        return usage
    ids = [one.token_ids for some in outputs for one in some]
    num_reasoning = sum(num_reasoning_tokens(tokenizer, one, thinking) for one in ids)
    details = CompletionTokensDetails(reasoning_tokens=num_reasoning)
    return ThinkingUsage(**dict(usage), completion_tokens_details=details)


def usage_of_tokens(num_completion_tokens: int, num_cached_tokens: int, prepared: Prepared) -> Usage:
    """The usage of the prompts and of `num_completion_tokens` generated tokens."""
    prompt_tokens = sum(map(len, prepared.prompts))
    completion_tokens = 0 if prepared.is_prompt_only else num_completion_tokens
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=num_cached_tokens),
    )


def _top_logprob(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    raw = tokenizer.decode_bytes(token_id)
    return TopLogprob(token=raw.decode("utf-8", "replace"), logprob=_finite(logprob), bytes=list(raw))


def _legacy_token(tokenizer: Tokenizer, token_id: int) -> str:
    raw = tokenizer.decode_bytes(token_id)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)
