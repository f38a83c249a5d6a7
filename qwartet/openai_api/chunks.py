"""Engine outputs, step by step, to the chunks of a stream; together they equal the answer that answer.py makes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from qwartet.engine.async_engine import StreamOutput
from qwartet.engine.request import TokenLogprobs
from qwartet.llm import LLM
from qwartet.openai_api.answer import (
    FINGERPRINT,
    chat_logprobs,
    completion_logprobs,
    finish_reason,
    usage_of,
    usage_of_tokens,
)
from qwartet.openai_api.answer_objects import (
    AnyUsage,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
    FinishReason,
)
from qwartet.openai_api.answer_stream import AnswerStream
from qwartet.openai_api.prepare import Prepared
from qwartet.openai_api.protocol import StreamOptions
from qwartet.openai_api.shown_tokens import ShownTokens, TextOffsets


class _UsageSoFar:
    """The field `usage` of a stream's chunks: the usage so far if requested, else null or absent."""

    def __init__(self, prepared: Prepared, options: StreamOptions | None) -> None:
        self._prepared = prepared
        self._is_in_each = options is not None and options.continuous_usage_stats is True
        self.is_at_end = options is not None and options.include_usage is True
        self._num_tokens = 0
        self._num_cached: dict[int, int] = {}  # tokens of each prompt

    def count(self, index: int, output: StreamOutput) -> None:
        """Counts what was added to choice `index`."""
        self._num_tokens += len(output.token_ids)
        self._num_cached[index // self._prepared.params.n] = output.request.num_cached_tokens

    def field(self, usage: AnyUsage | None) -> dict[str, AnyUsage | None]:
        """The field of a chunk; `usage`: the total, for the last chunk."""
        if usage is None and self._is_in_each:
            usage = usage_of_tokens(self._num_tokens, sum(self._num_cached.values()), self._prepared)
        return {"usage": usage} if self._is_in_each or self.is_at_end else {}


class ChatChunks:
    """The chunks of one chat answer; outputs belong to completion `output.index`."""

    def __init__(self, llm: LLM, model: str, prepared: Prepared, options: StreamOptions | None) -> None:
        self._llm, self._model, self._prepared = llm, model, prepared
        self._usage = _UsageSoFar(prepared, options)
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self._shown = [ShownTokens(llm.tokenizer) for _ in range(prepared.params.n)]
        self._streams = [AnswerStream(prepared.reading) for _ in range(prepared.params.n)]

    def beginning(self) -> list[ChatCompletionChunk]:
        """The chunks that state the role."""
        delta = ChatDelta(role="assistant", content="")
        return [self._choice(index, delta) for index in range(self._prepared.params.n)]

    def of(self, index: int, output: StreamOutput) -> list[ChatCompletionChunk]:
        """The chunks of what was added to choice `index`: text, then the end."""
        self._usage.count(index, output)
        shown = self._shown[index].push(output)
        logprobs = None if self._prepared.params.logprobs is None else chat_logprobs(self._llm.tokenizer, shown)
        deltas = self._deltas(index, output)
        if shown and not deltas:
            deltas = [ChatDelta()]  # tokens whose text is held back
        chunks = [self._choice(index, delta, logprobs if place == 0 else None) for place, delta in enumerate(deltas)]
        if output.finish_reason is not None:
            reason = self._streams[index].finish_reason(finish_reason(output))
            chunks.append(self._choice(index, ChatDelta(), reason=reason))
        return chunks

    def _deltas(self, index: int, output: StreamOutput) -> list[ChatDelta]:
        stream = self._streams[index]
        return stream.feed(output.text) + (stream.finish() if output.finish_reason is not None else [])

    def ending(self, outputs: Sequence[Sequence[StreamOutput]]) -> list[ChatCompletionChunk]:
        """The chunk without choices that states the total usage, if requested."""
        return (
            [self._chunk(None, usage_of(self._llm.tokenizer, outputs, self._prepared))] if self._usage.is_at_end else []
        )

    def _choice(
        self, index: int, delta: ChatDelta, logprobs: ChatLogprobs | None = None, reason: FinishReason | None = None
    ) -> ChatCompletionChunk:
        return self._chunk(ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason))

    def _chunk(self, choice: ChatChunkChoice | None, usage: AnyUsage | None = None) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            choices=[] if choice is None else [choice],
            system_fingerprint=FINGERPRINT,
            **self._usage.field(usage),
        )


class CompletionChunks:
    """The chunks of one completion; choice i belongs to prompt i // n."""

    def __init__(self, llm: LLM, model: str, prepared: Prepared, options: StreamOptions | None) -> None:
        self._llm, self._model, self._prepared = llm, model, prepared
        self._usage = _UsageSoFar(prepared, options)
        self._id, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        num_choices = len(prepared.prompts) * prepared.params.n
        self._shown = [ShownTokens(llm.tokenizer) for _ in range(num_choices)]
        self._offsets = [TextOffsets(llm.tokenizer, with_special=True) for _ in range(num_choices)]
        self._is_begun = [False] * num_choices

    def beginning(self) -> list[CompletionChunk]:
        """Nothing comes before the first text."""
        return []

    def of(self, index: int, output: StreamOutput) -> list[CompletionChunk]:
        """The chunks of what was added to choice `index`; with echo, the first one begins with the prompt."""
        prepared = self._prepared
        self._usage.count(index, output)
        text = "" if prepared.is_prompt_only else output.text
        told: list[tuple[int, TokenLogprobs | None]] = []
        if not self._is_begun[index] and prepared.prompt_texts:
            text = prepared.prompt_texts[index // prepared.params.n] + text
            told = list(zip(output.request.prompt_ids, output.request.prompt_logprobs, strict=False))
        self._is_begun[index] = True
        shown = self._shown[index].push(output)
        told += [] if prepared.is_prompt_only else [(one.token_id, one) for one in shown]
        reason = None
        if output.finish_reason is not None:
            reason = "length" if prepared.is_prompt_only else finish_reason(output)
        if not (text or told or reason):
            return []
        choice = CompletionChunkChoice(
            index=index, text=text, logprobs=self._logprobs(index, told), finish_reason=reason
        )
        return [self._chunk(choice)]

    def ending(self, outputs: Sequence[Sequence[StreamOutput]]) -> list[CompletionChunk]:
        """The chunk without choices that states the total usage, if requested."""
        return (
            [self._chunk(None, usage_of(self._llm.tokenizer, outputs, self._prepared))] if self._usage.is_at_end else []
        )

    def _logprobs(self, index: int, told: list[tuple[int, TokenLogprobs | None]]) -> CompletionLogprobs | None:
        if self._prepared.params.logprobs is None:
            return None
        has_top = self._prepared.params.logprobs > 0
        return completion_logprobs(self._llm.tokenizer, self._offsets[index], told, has_top=has_top)

    def _chunk(self, choice: CompletionChunkChoice | None, usage: AnyUsage | None = None) -> CompletionChunk:
        return CompletionChunk(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=[] if choice is None else [choice],
            system_fingerprint=FINGERPRINT,
            **self._usage.field(usage),
        )
