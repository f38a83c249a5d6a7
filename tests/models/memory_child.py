"""A process that plans its memory, then loads a model, fills the whole KV cache, and tells both figures as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys

from qwartet.bench.latency import peak_rss_bytes
from qwartet.cli.main import run
from qwartet.engine.sampling_params import SamplingParams
from qwartet.llm import LLM

NUM_GENERATED = 64  # more than the steps that all prompts take, so that all requests run at once


def forecast(directory: str, context: int, concurrency: int, kv_cache_dtype: str) -> dict:
    """What `qwartet plan` says."""
    output = io.StringIO()
    workload = ["--context", str(context), "--concurrency", str(concurrency), "--kv-cache-dtype", kv_cache_dtype]
    with contextlib.redirect_stdout(output):
        assert run(["plan", directory, *workload, "--json"]) == 0
    return json.loads(output.getvalue())


def work(directory: str, context: int, concurrency: int, kv_cache_dtype: str, max_num_batched_tokens: int) -> None:
    """Requests that fill every block of the cache with greedy tokens, then sampled tokens for as many requests."""
    llm = LLM(
        directory,
        device="cpu",
        max_model_len=context,
        max_num_seqs=concurrency,
        max_num_batched_tokens=max_num_batched_tokens,
        num_blocks=concurrency * context // 16,
        kv_cache_dtype=kv_cache_dtype,
    )
    source = random.Random(0)
    vocab_size = llm.model.config.vocab_size

    def prompts(length: int) -> list[list[int]]:
        """Ids from all of the vocabulary, so that the whole embedding is read."""
        return [[source.randrange(vocab_size) for _ in range(length)] for _ in range(concurrency)]

    greedy = SamplingParams(max_tokens=NUM_GENERATED, temperature=0.0, ignore_eos=True)
    answers = llm.generate(prompts(context - NUM_GENERATED), greedy)
    assert all(len(answer.token_ids) == NUM_GENERATED for answer in answers)
    sampled = SamplingParams(max_tokens=4, temperature=1.0, top_p=0.8, repetition_penalty=1.1)
    llm.generate(prompts(30), sampled)


if __name__ == "__main__":
    model, tokens, requests, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    plan = forecast(model, tokens, requests, kind)
    work(model, tokens, requests, kind, plan["max_num_batched_tokens"])
    print(json.dumps({"plan": plan, "peak_bytes": peak_rss_bytes()}))
