"""How fast a model reads a prompt and writes tokens, with the kernels alone: no engine around them, greedy tokens.

    decode    bound by bytes: every token reads all weights, the head, and its context's keys and values
    prefill   bound by arithmetic: two operations for each weight and token

Both are also given as shares of this machine's ceilings in the same run (bench/ceilings.py).
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwartet.bench.ceilings import Ceilings, measure_ceilings
from qwartet.bench.raw_model import run
from qwartet.errors import SettingError
from qwartet.layers.kv_cache import choose_cache_dtype, kv_bytes_per_token
from qwartet.layers.linear import Linear, QuantizedLinear
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel

BATCH_PROMPT = (
    16  # tokens of each request's prompt in the batch test, and tokens it then writes: as llama-batched-bench
)
BATCH_STEPS = 32


@dataclass(frozen=True)
class LatencySettings:
    """What is measured."""

    model: Path
    prompt: int = 512  # tokens
    generate: int = 64  # tokens
    context: int = 0  # tokens before the generated ones; at least one is used
    batches: tuple[int, ...] = ()
    rounds: int = 3  # of the prompt; the median counts
    activations: str | None = None
    head: str = "auto"
    kv_cache_dtype: str = "auto"

    def __post_init__(self) -> None:
        for name in ("prompt", "generate", "rounds"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.context < 0 or any(size < 1 for size in self.batches):
            raise SettingError("context must not be negative, and a batch needs at least one request")


@dataclass(frozen=True)
class LatencyReport:
    """Speeds in tokens a second; shares of the ceilings of the same run."""

    ceilings: Ceilings
    kernels: dict[str, str]
    load_s: float
    first_token_s: float  # the very first token, which also reads the mapped weights from disk
    prefill_tok_s: float
    decode_tok_s: float
    batch_tok_s: dict[int, float]  # requests -> tokens of all of them
    context: int
    bytes_per_token: int  # read to decode one token, in the middle of the run
    peak_rss_bytes: int
    operations_per_token: int  # of the linears of all blocks

    @property
    def read_gb_s(self) -> float:
        """Read rate while decoding, in 1e9 bytes a second."""
        return self.bytes_per_token * self.decode_tok_s / 1e9

    @property
    def mbu(self) -> float:
        """Share of the read ceiling while decoding."""
        return self.read_gb_s / self.ceilings.read_gb_s

    @property
    def int8_gop_s(self) -> float:
        """Arithmetic rate for the prompt, in 1e9 operations a second; a multiplication and an addition are two."""
        return self.operations_per_token * self.prefill_tok_s / 1e9

    @property
    def mfu(self) -> float:
        """Share of the int8 ceiling while reading the prompt."""
        return self.int8_gop_s / self.ceilings.int8_gop_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        names = ("prefill_tok_s", "decode_tok_s", "mbu", "mfu", "read_gb_s", "int8_gop_s", "load_s", "first_token_s")
        return {
            **{name: round(getattr(self, name), 4) for name in names},
            "peak_rss_bytes": self.peak_rss_bytes,
            "context": self.context,
            "bytes_per_token": self.bytes_per_token,
            "batch_tok_s": {str(size): round(speed, 2) for size, speed in self.batch_tok_s.items()},
            "kernels": self.kernels,
            "ceilings": vars(self.ceilings),
        }


def weight_bytes_per_token(model: QwenModel, greedy: bool = True) -> int:
    """Bytes of weights that one decoded token reads: all linears and norms, the head, one row of the embedding."""
    head = model.lm_head.prepared if greedy else None
    total = model.lm_head.weight.nbytes if head is None else _nbytes(head.tensors)
    total += model.embedding.weight[0].nbytes
    for module in model.layers.modules():
        if isinstance(module, QuantizedLinear):
            total += _nbytes(module.prepared.tensors)
        elif isinstance(module, Linear):
            total += module.weight.nbytes
    return total


def _nbytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def peak_rss_bytes() -> int:
    """Peak resident memory of this process; 0 if the system does not report it."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


def measure_latency(settings: LatencySettings, log: Callable[[str], None] = lambda _text: None) -> LatencyReport:
    """Loads the model and measures it; CheckpointError or SettingError if that is impossible."""
    started = time.perf_counter()
    model = load_model(settings.model, dtype="bf16", device="cpu", activations=settings.activations, head=settings.head)
    load_s = time.perf_counter() - started
    longest = max(settings.prompt, max(settings.context, 1) + settings.generate)
    if longest > model.config.position.max_length:
        raise SettingError(f"{longest} tokens are needed; this model's limit is {model.config.position.max_length}")
    cache = choose_cache_dtype(settings.kv_cache_dtype, torch.bfloat16)
    first_token_s = run(model, 1, 1, 0, cache_dtype=cache).prefill_s
    log("measuring the machine")
    ceilings = measure_ceilings()
    run(model, 1, 16, 2, cache_dtype=cache)  # warm-up
    log(f"reading {settings.prompt} tokens, {settings.rounds} times")
    prompts = [run(model, 1, settings.prompt, 0, cache_dtype=cache).prefill_s for _ in range(settings.rounds)]
    context = max(settings.context, 1)
    log(f"writing {settings.generate} tokens after {context}")
    steps = run(model, 1, context, settings.generate, cache_dtype=cache).step_s
    batch_tok_s = {}
    for size in settings.batches:
        log(f"writing for {size} requests at once")
        batch = run(model, size, BATCH_PROMPT, BATCH_STEPS, cache_dtype=cache)
        batch_tok_s[size] = size / statistics.mean(batch.step_s)
    config = model.config
    kv_bytes = kv_bytes_per_token(config.num_layers, config.num_kv_heads, config.head_dim, cache)
    return LatencyReport(
        ceilings=ceilings,
        kernels=dict(model.backend.names),
        load_s=load_s,
        first_token_s=first_token_s,
        prefill_tok_s=settings.prompt / statistics.median(prompts),
        decode_tok_s=1 / statistics.mean(steps),
        batch_tok_s=batch_tok_s,
        context=context,
        bytes_per_token=weight_bytes_per_token(model) + kv_bytes * (context + settings.generate // 2),
        peak_rss_bytes=peak_rss_bytes(),
        operations_per_token=2 * config.num_linear_parameters,
    )
