"""The result of a prompt, complete."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

from qwartet.engine.request import FinishReason, Request, TokenLogprobs
from qwartet.errors import RequestError
from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.thinking import ThinkingPart, split_thinking


@dataclass(frozen=True)
class Completion:
    """A result of `generate`."""

    prompt_ids: list[int]
    token_ids: list[int]  # as sampled, a final stop token included
    text: str  # without stop tokens and stop strings
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs]  # of the completion, and of the prompt; empty unless requested
    prompt_logprobs: list[TokenLogprobs | None]
    num_cached_tokens: int  # prompt tokens that were already in the cache
    error: Exception | None = None  # why the finish reason is "error"
    reasoning: str = ""  # of a chat's answer that began with thinking; not part of the text

    @classmethod
    def refused(cls, prompt_ids: list[int], error: RequestError) -> Completion:
        """The result of a prompt that cannot be served."""
        return cls(prompt_ids, [], "", "error", [], [], 0, error)

    @classmethod
    def of(cls, request: Request) -> Completion:
        """The result of a request that has ended."""
        has_prompt = request.params.prompt_logprobs is not None
        return cls(
            prompt_ids=request.prompt_ids,
            token_ids=request.completion_ids,
            text=request.completion_text,
            finish_reason=request.finish_reason or "abort",
            logprobs=request.logprobs,
            prompt_logprobs=request.prompt_logprobs if has_prompt else [],
            num_cached_tokens=request.num_cached_tokens,
            error=request.error,
        )

    def split(self, begins_in: ThinkingPart) -> Completion:
        """The same with its thinking apart from its text; `begins_in`: where the prompt ended."""
        reasoning, text = split_thinking(self.text, begins_in)
        return replace(self, text=text, reasoning=reasoning)


def texts_of(deltas: Generator[AnswerDelta, None, Completion]) -> Generator[str, None, Completion]:
    """The texts of deltas; closing it closes them."""
    with closing(deltas):
        try:
            while True:
                if text := next(deltas).text:
                    yield text
        except StopIteration as end:
            completion: Completion = end.value
            return completion
