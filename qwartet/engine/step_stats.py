"""What one step of the engine did, and how long its parts took. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepStats:
    """Passed to all of Engine.observers. On a GPU, whose work is queued, sampling waits for the forward pass."""

    num_requests: int = 0
    num_prompt_tokens: int = 0  # prompt tokens computed, recomputation after preemption included
    num_decode_tokens: int = 0  # one for each request that decodes
    num_drafted: int = 0  # draft tokens verified
    num_accepted: int = 0  # of the drafts
    num_new_tokens: int = 0  # that the step added to completions
    schedule_s: float = 0.0
    draft_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0
    commit_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens that went through the network."""
        return self.num_prompt_tokens + self.num_decode_tokens + self.num_drafted

    @property
    def seconds(self) -> float:
        return self.schedule_s + self.draft_s + self.forward_s + self.sample_s + self.commit_s
