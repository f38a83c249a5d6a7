"""Measures one row in this process: a model, a prompt of one repeated token, and exactly so many tokens after it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from qwartet.bench.latency import peak_rss_bytes
from qwartet.bench.profile.row import Measured
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import VocabularyError
from qwartet.kernels.cpu.library import native_library
from qwartet.layers.kv_cache import BLOCK_SIZE
from qwartet.llm import LLM

PROMPT = "我"  # as in the published script
PROMPT_ID = 35_946  # its id in the published vocabulary, for checkpoints without one
PROGRESS_S = 0.5

OnProgress = Callable[[int, int], object]
"""Called now and then with the tokens of the prompt that are computed, and those generated."""


def measure_row(
    directory: Path,
    *,
    device: str,
    context: int,
    generate: int,
    kv_cache_dtype: str,
    activations: str | None = None,
    head: str = "auto",
    on_progress: OnProgress = lambda _prompt, _generated: None,
) -> Measured:
    """Loads the model and runs the request; one token is generated before it, which is not timed.

    OutOfMemoryError where the memory ends, CheckpointError or SettingError where loading raises them.
    """
    packed: list[int] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llm = LLM(
            directory, device=device, activations=activations, head=head, kv_cache_dtype=kv_cache_dtype,
            max_model_len=context + generate, max_num_seqs=1, num_blocks=-(-(context + generate) // BLOCK_SIZE),
            enable_prefix_caching=False, speculation="off", on_packed=lambda count, _total: packed.append(count),
        )  # fmt: skip
        with llm:
            prompt = prompt_ids(llm, context)
            _run(llm, prompt[:1], 1, lambda _prompt, _generated: None)
            first_token_s, seconds = _run(llm, prompt, generate, on_progress)
            kernels = dict(llm.model.backend.names)
    library = native_library()
    return Measured(
        seconds=seconds,
        first_token_s=first_token_s,
        peak_bytes=peak_rss_bytes(),
        has_packed=bool(packed),
        threads=torch.get_num_threads() if library is None else library.num_threads,
        kernels=kernels,
        warnings=list(dict.fromkeys(str(warning.message) for warning in caught)),
    )


def prompt_ids(llm: LLM, context: int) -> list[int]:
    """`context` ids: those of the published prompt where the vocabulary makes one token of each character."""
    try:
        ids = llm.tokenizer.encode(PROMPT * context)
        if len(ids) != context:
            ids = llm.tokenizer.encode(PROMPT)
    except VocabularyError:
        ids = [min(PROMPT_ID, llm.model.config.vocab_size - 1)]
    return (ids * context)[:context]


def _run(llm: LLM, prompt: list[int], num_tokens: int, on_progress: OnProgress) -> tuple[float, float]:
    """Seconds to the first token and to the last."""
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    first_token_s, reported = None, 0.0
    started = time.perf_counter()
    [request] = llm.add(prompt, params)
    while llm.engine.has_unfinished:
        for output in llm.engine.step():
            if output.request.error is not None:
                raise output.request.error
        now = time.perf_counter() - started
        if first_token_s is None and request.completion_ids:
            first_token_s = now
        if now - reported >= PROGRESS_S:
            reported = now
            num_generated = len(request.completion_ids)
            on_progress(len(prompt) if num_generated else request.num_computed_tokens, num_generated)
    assert first_token_s is not None and len(request.completion_ids) == num_tokens, "nothing ends it earlier"
    return first_token_s, now
