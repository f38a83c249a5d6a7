"""One request's life: its ids, how far they are computed, which blocks hold its keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from qwartet.engine.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "abort"]

LogitsProcessor = Callable[[Any, list[int]], Any]
"""Pure function (logits of one row, prompt and completion ids so far) -> logits."""


@dataclass(eq=False)
class Request:
    """A prompt being completed. The engine owns it; callers read it."""

    request_id: int
    prompt_ids: list[int]
    params: SamplingParams
    stop_token_ids: frozenset[int] = frozenset()
    alpha_slot: int = 0  # NTK alpha, fixed by the prompt's length
    first_position: int = 0  # position of the first id; above 0 where a padded row is reproduced
    logits_processors: tuple[LogitsProcessor, ...] = ()  # applied after the built-in ones, before temperature
    completion_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0  # ids whose keys and values are in the cache
    block_table: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def token_ids(self, start: int, end: int) -> list[int]:
        """Ids start : end of prompt and completion together."""
        num_prompt = len(self.prompt_ids)
        prompt = self.prompt_ids[start:end]
        return prompt + self.completion_ids[max(start - num_prompt, 0) : max(end - num_prompt, 0)]

    def append(self, token_id: int) -> None:
        """Adds a sampled id and notes whether it ends the completion."""
        self.completion_ids.append(token_id)
        if token_id in self.stop_token_ids:
            self.finish_reason = "stop"
        elif len(self.completion_ids) >= self.params.max_tokens:
            self.finish_reason = "length"
