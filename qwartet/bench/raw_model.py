"""The network driven without the engine: the kernels, and nothing around them.

Batches are built beforehand, so that only the model is timed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from qwartet.engine.runner import ModelRunner
from qwartet.kernels.cache_layer import CacheDtype
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import BLOCK_SIZE
from qwartet.models.qwen import QwenModel


def step_batch(model: QwenModel, ids: torch.Tensor, start: int, num_blocks: int) -> ForwardBatch:
    """ids [B, n] become tokens start .. start + n - 1 of B requests; the head runs on the last of each.

    Request b owns blocks b * num_blocks and on.
    """
    num_requests, num_new = ids.shape
    position = model.config.position
    places = torch.arange(start, start + num_new, dtype=torch.int32)
    positions = places.repeat(num_requests)
    table = torch.arange(num_requests * num_blocks, dtype=torch.int32).view(num_requests, num_blocks)
    slots = table[:, places // BLOCK_SIZE] * BLOCK_SIZE + places % BLOCK_SIZE
    return ForwardBatch(
        input_ids=ids.flatten().int(),
        rope_index=positions + position.alpha_slot(start + num_new) * position.max_length,
        query_scale=position.query_scales(positions),
        cu_seqlens=torch.arange(num_requests + 1, dtype=torch.int32) * num_new,
        seq_lens=torch.full((num_requests,), start + num_new, dtype=torch.int32),
        block_table=table,
        slot_mapping=slots.flatten(),
        logits_index=None if num_new == 1 else torch.arange(1, num_requests + 1) * num_new - 1,
    )


@dataclass(frozen=True)
class RawRun:
    """Seconds of a prompt and of each step after it."""

    prefill_s: float
    step_s: list[float]


class RawModel:
    """A batch of requests with prompts of random ids, all of the same length."""

    def __init__(
        self, model: QwenModel, num_requests: int, prompt: int, steps: int, *, cache_dtype: CacheDtype, seed: int = 0
    ) -> None:
        """`steps`: the number of decoding steps to reserve room for."""
        self._model, self._length = model, prompt
        self._num_blocks = -(-(prompt + steps) // BLOCK_SIZE)
        self._runner = ModelRunner(model, num_requests * self._num_blocks, BLOCK_SIZE, cache_dtype)
        self._num_valid = min(model.config.vocab_size, 151_851)
        generator = torch.Generator().manual_seed(seed)
        self._prompts = torch.randint(self._num_valid, (num_requests, prompt), generator=generator)
        self._tokens: list[int] = []

    @torch.inference_mode()
    def prefill(self, chunk: int = 512) -> float:
        """Reads the prompts in chunks, up to the first token of each; returns the seconds."""
        starts = range(0, self._prompts.shape[1], chunk)
        batches = [step_batch(self._model, self._prompts[:, at : at + chunk], at, self._num_blocks) for at in starts]
        started = time.perf_counter()
        for batch in batches:
            hidden = self._runner.run(batch)
        self._tokens = self._model.lm_head.argmax(hidden, self._num_valid)
        return time.perf_counter() - started

    @torch.inference_mode()
    def step(self) -> float:
        """Decodes a greedy token for each request; returns the seconds."""
        batch = step_batch(self._model, torch.tensor(self._tokens).unsqueeze(1), self._length, self._num_blocks)
        started = time.perf_counter()
        self._tokens = self._model.lm_head.argmax(self._runner.run(batch), self._num_valid)
        self._length += 1
        return time.perf_counter() - started


def run(model: QwenModel, num_requests: int, prompt: int, steps: int, *, cache_dtype: CacheDtype) -> RawRun:
    """Reads a prompt of random ids for each of `num_requests`, then decodes `steps` greedy tokens for all."""
    raw = RawModel(model, num_requests, prompt, steps, cache_dtype=cache_dtype)
    return RawRun(raw.prefill(), [raw.step() for _ in range(steps)])
