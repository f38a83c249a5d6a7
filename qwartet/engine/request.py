"""The state of one request: its ids, how far they are computed, which blocks hold keys and values, its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from qwartet.engine.block_manager import BlockTable
from qwartet.engine.sampling_params import SamplingParams
from qwartet.tokenizer.thinking import ThinkingPart

FinishReason = Literal["stop", "length", "abort", "error"]

LogitsProcessor = Callable[[Any, list[int]], Any]
"""Pure function (logits of one row, prompt and completion ids so far) -> logits."""


@dataclass(frozen=True)
class TokenLogprobs:
    """The model's own probability of a token: log-probabilities in nats, before penalties, temperature and cuts."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # the most probable ids with their log-probabilities, best first


class TokenText(Protocol):
    """Ids to text as they are generated: tokenizer/stream.py."""

    stopped_by: str | None

    def push(self, token_id: int) -> str: ...
    def finish(self) -> str: ...


class TokenConstraint(Protocol):
    """Which ids may follow: engine/constrain.py."""

    @property
    def is_finished(self) -> bool: ...
    def mask(self, num_ids: int | None = None) -> Any: ...
    def accept(self, token_id: int) -> None: ...
    def count_valid(self, token_ids: Sequence[int]) -> int: ...
    def fork(self) -> TokenConstraint: ...


@dataclass(frozen=True)
class RequestOptions:
    """Options of a prompt other than its sampling settings."""

    stop_token_ids: Sequence[int] = ()  # the model's own
    first_position: int = 0  # position of the first id; above 0 where a padded row is reproduced
    logits_processors: tuple[LogitsProcessor, ...] = ()  # applied after the built-in ones, before temperature
    cache_salt: str = ""  # only requests with the same salt share cached prefixes
    constraint: TokenConstraint | None = None  # params.structure, if another thread has compiled it
    speculates: bool = True  # false for stateful processors, which must not see ids that may be rejected
    prompt_logprobs_from: int = 0  # place in the prompt; earlier tokens get no log-probabilities and may be cached
    logprob_token_ids: tuple[int, ...] = ()  # report the log-probabilities of these ids, not of the most probable
    thinking: ThinkingPart = "answer"  # where the completion begins; stop strings do not apply to thinking


NO_OPTIONS = RequestOptions()


@dataclass(eq=False)
class Request:
    """A prompt and its completion. The engine owns it; callers read it."""

    request_id: int
    prompt_ids: list[int]
    params: SamplingParams
    seed: int = 0  # of its random numbers
    stop_token_ids: frozenset[int] = frozenset()
    first_position: int = 0  # position of the first id; above 0 where a padded row is reproduced
    logits_processors: tuple[LogitsProcessor, ...] = ()  # applied after the built-in ones, before temperature
    constraint: TokenConstraint | None = None
    text_stream: TokenText | None = None
    parent: Request | None = None  # the first completion of its prompt, which computes the prompt for all
    speculates: bool = True  # whether tokens are drafted for it
    logprob_token_ids: tuple[int, ...] = ()  # report the log-probabilities of these ids, not of the most probable
    adapter: int = -1  # number of its LoRA adapter; -1: none
    # mutable state:
    children: list[Request] = field(default_factory=list)  # the other completions, until this one ends
    completion_ids: list[int] = field(default_factory=list)
    completion_text: str = ""  # without stop tokens, stop strings, and anything that may become one
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # of the completion, if requested
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])  # nothing predicts the first id
    num_cached_tokens: int = 0  # of the prompt, found in the cache when the request first ran
    num_preemptions: int = 0
    table: BlockTable = field(default_factory=BlockTable)  # where its keys and values are
    draft_ids: list[int] = field(default_factory=list)  # draft tokens, verified in the current step
    finish_reason: FinishReason | None = None
    error: Exception | None = None  # why the finish reason is "error"

    @property
    def block_table(self) -> list[int]:
        return self.table.blocks

    @property
    def num_computed_tokens(self) -> int:
        """Ids whose keys and values are in the cache."""
        return self.table.num_computed_tokens

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def is_decoding(self) -> bool:
        """Whether all but the last sampled token are computed."""
        return bool(self.completion_ids) and self.num_computed_tokens == self.num_tokens - 1

    @property
    def waits_for_parent(self) -> bool:
        """Whether the parent is still computing the prompt that this request will find in the cache."""
        parent = self.parent
        return parent is not None and not parent.is_finished and parent.num_computed_tokens < parent.num_prompt_tokens

    @property
    def is_prompt_done(self) -> bool:
        """Whether the prompt is computed, requested logprobs included."""
        is_told = self.params.prompt_logprobs is None or len(self.prompt_logprobs) >= self.num_prompt_tokens
        return is_told and self.num_computed_tokens >= self.num_prompt_tokens

    def leave_children(self) -> None:
        """Called when the request ends: if its prompt is not done, its first child computes it for the others."""
        heirs = [] if self.is_prompt_done else [child for child in self.children if not child.is_finished]
        self.children = []
        if heirs:
            heirs[0].parent, heirs[0].children = None, heirs[1:]
            for other in heirs[1:]:
                other.parent = heirs[0]

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: smaller priority first, then earlier arrival."""
        return self.params.priority, self.request_id

    def token_ids(self, start: int, end: int) -> list[int]:
        """Ids start : end of prompt, completion and drafts together."""
        ids: list[int] = []
        for part in (self.prompt_ids, self.completion_ids, self.draft_ids):
            ids += part[max(start, 0) : max(end, 0)]
            start, end = start - len(part), end - len(part)
        return ids

    def append(self, token_id: int) -> str:
        """Adds a sampled id and notes whether it ends the completion; returns the text that became final."""
        self.completion_ids.append(token_id)
        is_stop, text = token_id in self.stop_token_ids, ""
        if self.text_stream is not None and not is_stop:
            text = self.text_stream.push(token_id)
        if is_stop or (self.text_stream is not None and self.text_stream.stopped_by is not None):
            self.finish_reason = "stop"
        elif len(self.completion_ids) >= self.params.max_tokens:
            self.finish_reason = "length"
        if self.is_finished and self.text_stream is not None:
            text += self.text_stream.finish()
        self.completion_text += text
        return text

    def complete(self) -> str:
        """Notes that the structure is complete and nothing may follow; returns the text that became final."""
        text = "" if self.is_finished or self.text_stream is None else self.text_stream.finish()
        self.finish_reason = "stop"
        self.completion_text += text
        return text
