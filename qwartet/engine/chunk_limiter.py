"""How much of a long prompt a step may compute while others wait for their next token. Numbers only.

A chunk of a prompt stalls the requests that decode in the same step. So the chunk is what fits into `max_stall_s` at
the speed of the latest chunks, but at least MIN_CHUNK tokens, which share the cost of reading the weights.
"""

from __future__ import annotations

from qwartet.engine.step_stats import StepStats

MIN_CHUNK = 32  # tokens
_MEMORY = 0.5  # of the speed, from one chunk to the next


class ChunkLimiter:
    """Tracks the speed of steps with many tokens, and how long a chunk may be at that speed."""

    def __init__(self, max_stall_s: float | None) -> None:
        """None: a chunk is as long as a step allows."""
        self.max_stall_s = max_stall_s
        self._token_s: float | None = None

    def observe(self, stats: StepStats) -> None:
        """Records a step; one with few tokens says nothing about chunks."""
        if stats.num_tokens >= MIN_CHUNK:
            token_s = stats.seconds / stats.num_tokens
            self._token_s = token_s if self._token_s is None else _MEMORY * self._token_s + (1 - _MEMORY) * token_s

    def chunk(self, budget: int) -> int:
        """How many of `budget` tokens a step may spend on prompts while requests decode."""
        if self.max_stall_s is None:
            return budget
        fitting = MIN_CHUNK if not self._token_s else int(self.max_stall_s / self._token_s)
        return min(max(fitting, MIN_CHUNK), budget)
