"""The network driven without the engine: what the kernels give, and nothing around them.

Batches are built beforehand, so that only the model runs while the clock does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from qwartet.kernels.cache_layer import CacheDtype
from qwartet.layers.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import KVCache
from qwartet.models.qwen import QwenModel

BLOCK_SIZE = 16


def step_batch(model: QwenModel, ids: torch.Tensor, start: int, num_blocks: int) -> ForwardBatch:
    """ids [B, n] become tokens start .. start + n - 1 of B requests; the head runs on the last of each.

    Request b owns blocks b * num_blocks and on.
    """
    num_requests, num_new = ids.shape
    position = model.config.position
    places = torch.arange(start, start + num_new)
    positions = places.repeat(num_requests)
    table = torch.arange(num_requests * num_blocks).view(num_requests, num_blocks)
    slots = table[:, places // BLOCK_SIZE] * BLOCK_SIZE + places % BLOCK_SIZE
    return ForwardBatch(
        input_ids=ids.flatten(),
        positions=positions,
        rope_index=positions + position.alpha_slot(start + num_new) * position.max_length,
        query_scale=position.query_scales(positions),
        cu_seqlens=torch.arange(num_requests + 1) * num_new,
        seq_lens=torch.full((num_requests,), start + num_new),
        block_table=table,
        slot_mapping=slots.flatten(),
        logits_index=None if num_new == 1 else torch.arange(1, num_requests + 1) * num_new - 1,
    )


@dataclass(frozen=True)
class RawRun:
    """Seconds of a prompt and of each step after it."""

    prefill_s: float
    step_s: list[float]


@torch.inference_mode()
def run(
    model: QwenModel,
    num_requests: int,
    prompt: int,
    steps: int,
    *,
    cache_dtype: CacheDtype,
    chunk: int = 512,
    seed: int = 0,
) -> RawRun:
    """Reads a prompt of random ids in chunks for each of `num_requests`, then decodes `steps` greedy tokens for all."""
    config = model.config
    num_blocks = -(-(prompt + steps) // BLOCK_SIZE)
    cache = KVCache(
        num_layers=config.num_layers, num_blocks=num_requests * num_blocks, num_kv_heads=config.num_kv_heads,
        block_size=BLOCK_SIZE, head_dim=config.head_dim, dtype=cache_dtype,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    num_valid = min(config.vocab_size, 151_851)
    ids = torch.randint(num_valid, (num_requests, prompt), generator=generator)
    batches = [step_batch(model, ids[:, at : at + chunk], at, num_blocks) for at in range(0, prompt, chunk)]
    started = time.perf_counter()
    for batch in batches:
        hidden = model.hidden(batch, cache)
    tokens = model.lm_head.argmax(hidden, num_valid)
    prefill_s = time.perf_counter() - started
    step_s = []
    for step in range(steps):
        batch = step_batch(model, torch.tensor(tokens).unsqueeze(1), prompt + step, num_blocks)
        started = time.perf_counter()
        tokens = model.lm_head.argmax(model.hidden(batch, cache), num_valid)
        step_s.append(time.perf_counter() - started)
    return RawRun(prefill_s, step_s)
