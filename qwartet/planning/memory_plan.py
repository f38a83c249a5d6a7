"""How much memory a model needs at work, row by row, before anything is loaded; and the most that fits.

    weights as held + rotary tables + KV cache + working memory of a step + tokenizer + the process itself

A NetworkMemory follows from a checkpoint and its load settings, a Workload is what requests ask for, a Machine is what
the hardware has. A MemoryPlan adds them up; it only calculates.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from qwartet.checkpoint import weight_cache
from qwartet.checkpoint.held_tensors import HeldTensor, LoadSettings, held_tensors
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.shards import Checkpoint
from qwartet.engine.engine_config import CPU_BATCHED_TOKENS
from qwartet.engine.sampler import LOGITS_ROWS
from qwartet.engine.speculate import MAX_DRAFTS
from qwartet.errors import SettingError
from qwartet.kernels.cache_layer import CacheDtype
from qwartet.kernels.cpu.library import native_library
from qwartet.kernels.device_memory import available_bytes
from qwartet.layers.kv_cache import BLOCK_SIZE, kv_bytes_per_token
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of
from qwartet.models.residency import RESIDENT_FRACTION
from qwartet.planning.step_memory import (
    StepSize,
    logits_bytes,
    native_tensor_bytes,
    reference_bytes,
    sampler_bytes,
    step_shape,
)

MOST_REQUESTS = 2**16
# Of a vocabulary: a dict of Python's bytes and tiktoken's tables; measured with the published one, 55 MiB.
TOKENIZER_BYTES_PER_RANK = 380
_CACHE_DTYPES: dict[str, CacheDtype] = {
    "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "int8": "int8", "int4": "int4",
}  # fmt: skip
CACHE_KINDS = ("bf16", "int8", "int4")
WEIGHT_ROWS = ("linears", "embedding", "head", "8-bit copy of the head", "norms and biases")


def cache_bytes_per_token(config: ModelConfig, kind: str) -> int:
    """Bytes of one token's keys and values in all layers."""
    return kv_bytes_per_token(config.num_layers, config.num_kv_heads, config.head_dim, _CACHE_DTYPES[kind])


def cache_kind(name: str, dtype: torch.dtype) -> str:
    """The kind that a name means for a model that computes in `dtype`: "auto" is the model's own."""
    if name != "auto":
        return name
    return next(kind for kind, cache_dtype in _CACHE_DTYPES.items() if cache_dtype == dtype)


@dataclass(frozen=True)
class Workload:
    """The load on a model: simultaneous requests, each of up to `context` tokens of prompt and answer."""

    context: int
    concurrency: int
    kind: str  # of the KV cache: "bf16", "fp16", "fp32", "int8", "int4"
    max_num_batched_tokens: int = CPU_BATCHED_TOKENS

    def check(self, config: ModelConfig) -> None:
        """SettingError for a context or a concurrency that the model or the engine does not support."""
        most = config.position.max_length
        if not 2 <= self.context <= most:
            raise SettingError(f"context is {self.context} tokens; with this model it must be between 2 and {most}")
        if not 1 <= self.concurrency <= MOST_REQUESTS:
            text = f"concurrency is {self.concurrency} requests; it must be between 1 and {MOST_REQUESTS}"
            raise SettingError(text)

    @property
    def blocks_per_request(self) -> int:
        return -(-self.context // BLOCK_SIZE)

    @property
    def num_cache_tokens(self) -> int:
        """Tokens that the cache has room for, in full blocks for every request."""
        return self.blocks_per_request * BLOCK_SIZE * self.concurrency

    @property
    def step(self) -> StepSize:
        """The largest step."""
        return StepSize(
            num_tokens=min(self.max_num_batched_tokens, self.context * self.concurrency),
            num_rows=min(self.max_num_batched_tokens, self.concurrency * (1 + MAX_DRAFTS), LOGITS_ROWS),
            context=self.context,
            max_blocks=self.blocks_per_request,
        )


@dataclass(frozen=True)
class Machine:
    """The hardware. `process_bytes` is what a process takes before it has a model, libraries included."""

    free_bytes: int
    process_bytes: int
    num_threads: int = 1


def _run_operations_once() -> None:
    """Loads the code for sampling from its file, as a running model does: code takes memory when it first runs."""
    row, index = torch.zeros(16), torch.arange(4)
    seen = row[index]
    row = row.index_copy(0, index, torch.where(seen < 0, seen * 2, seen / 2)).masked_fill(row > 1, -torch.inf)
    bool(row.max().isfinite())
    scores = row.numpy()
    order = np.argsort(-scores[np.argpartition(scores, -4)[-4:]], kind="stable")
    np.log(np.exp(scores[order].astype(np.float64)).cumsum())


def this_machine() -> Machine:
    """The memory that is free for a new process; this one shows what a process takes by itself."""
    _run_operations_once()
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        status = ""
    sizes = {key: 1024 * int(size) for key, size in re.findall(r"(VmRSS|RssAnon):\s+(\d+) kB", status)}
    library = native_library()
    return Machine(
        # What this process has written is not free while it runs, but will be for the next one.
        free_bytes=available_bytes(torch.device("cpu")) + sizes.get("RssAnon", 0),
        process_bytes=sizes.get("VmRSS", 0),
        num_threads=torch.get_num_threads() if library is None else library.num_threads,
    )


@dataclass(frozen=True)
class NetworkMemory:
    """What a loaded network takes at any load, in bytes."""

    config: ModelConfig
    settings: LoadSettings
    weights: dict[str, int]  # by WEIGHT_ROWS
    layer_bytes: tuple[int, ...]  # of each layer's weights
    kept_bytes: int  # of repacked weights that the first start writes to disk for later ones; 0: every start repacks
    packing_bytes: int  # what the first start has in memory meanwhile, besides process and rotary tables
    unkept_bytes: int  # the same without a weight cache on disk: the file's tensors and the repacked ones
    can_stream: bool  # from disk, where the weights do not fit

    @property
    def weights_bytes(self) -> int:
        return sum(self.weights.values())

    @property
    def head_bytes(self) -> int:
        """Of the exact head, which may be the embedding."""
        return self.weights["head"] or self.weights["embedding"]

    @property
    def rotary_bytes(self) -> int:
        """Cosines and sines of all NTK tables, fp32."""
        position = self.config.position
        return 2 * 4 * position.num_alphas * position.max_length * (position.rotary_dim // 2)

    def step_rows(self, step: StepSize, num_threads: int) -> dict[str, int]:
        """The working memory of a step."""
        settings, config = self.settings, self.config
        scratch = settings.backend.scratch_bytes(step_shape(config, settings, step, num_threads))
        if scratch is None:
            activations = reference_bytes(config, settings.dtype.itemsize, settings.gptq is not None, step)
        else:
            activations = scratch + native_tensor_bytes(config, step)
        return {
            "activations and scratch": activations,
            "logits": logits_bytes(config, step),
            "sampler": sampler_bytes(config),
        }


def network_memory(checkpoint: Checkpoint, config: ModelConfig, settings: LoadSettings) -> NetworkMemory:
    """Reads headers only; the caller has checked the checkpoint's names and shapes."""
    layout = layout_of(config, checkpoint)
    held = list(held_tensors(checkpoint, layout, settings))
    made = [tensor for tensor in held if not tensor.is_in_file]
    made_bytes = sum(tensor.nbytes for tensor in made)
    is_kept = settings.backend.layout is not None and made_bytes >= weight_cache.LEAST_BYTES
    return NetworkMemory(
        config=config,
        settings=settings,
        weights={row: sum(tensor.nbytes for tensor in held if _row_of(tensor, layout) == row) for row in WEIGHT_ROWS},
        layer_bytes=_layer_bytes(held, config.num_layers),
        kept_bytes=made_bytes if is_kept else 0,
        packing_bytes=_largest_module(checkpoint, layout, made),
        unkept_bytes=checkpoint.nbytes + made_bytes if made else 0,
        can_stream=is_kept or not made,
    )


def _row_of(tensor: HeldTensor, layout: Layout) -> str:
    kind = layout[tensor.module].kind
    if kind == "head":
        return WEIGHT_ROWS[3] if tensor.is_prepared_head else "head"
    if kind == "embedding":
        return "embedding"
    return "linears" if kind == "linear" and tensor.leaf != "bias" else "norms and biases"


def _layer_bytes(held: Iterable[HeldTensor], num_layers: int) -> tuple[int, ...]:
    sizes = [0] * num_layers
    for tensor in held:
        if tensor.module.startswith("layers."):
            sizes[int(tensor.module.split(".")[1])] += tensor.nbytes
    return tuple(sizes)


def _largest_module(checkpoint: Checkpoint, layout: Layout, made: list[HeldTensor]) -> int:
    """Bytes of the largest module that is repacked or converted, as read and as made together."""
    sizes: dict[str, int] = {}
    for tensor in made:
        sizes[tensor.module] = sizes.get(tensor.module, 0) + tensor.nbytes
    for module in sizes:
        leaves = ("weight", "bias", "qweight", "qzeros", "scales", "g_idx")
        names = (name for leaf in leaves for name in layout[module].disk_names(leaf))
        sizes[module] += sum(checkpoint.info(name).nbytes for name in names if name in checkpoint)
    return max(sizes.values(), default=0)


@dataclass(frozen=True)
class StreamForecast:
    """Streaming, where the weights do not fit: some of the layers stay in memory, every step reads the others."""

    num_resident: int
    num_layers: int
    streamed_bytes: int


@dataclass(frozen=True)
class Plan(ABC):
    """A network and a workload on some hardware: what takes memory there, and the most that fits."""

    network: NetworkMemory
    workload: Workload

    @property
    @abstractmethod
    def rows(self) -> dict[str, int]:
        """What takes memory, in bytes."""

    @property
    @abstractmethod
    def fits(self) -> bool:
        """Whether there is enough memory."""

    @property
    def total_bytes(self) -> int:
        """The memory in use once every block of the cache is used."""
        return sum(self.rows.values())

    def with_workload(self, **changes: Any) -> Self:
        """The same plan for a workload that differs in these fields."""
        return replace(self, workload=replace(self.workload, **changes))

    @property
    def largest_context(self) -> int:
        """The longest context, in tokens, that fits with this concurrency; 0 where not even 2 tokens do."""
        most = self.network.config.position.max_length
        found = _largest(lambda context: self.with_workload(context=context).fits, most)
        return found if found >= 2 else 0

    @property
    def largest_concurrency(self) -> int:
        """The most simultaneous requests that fit with this context."""
        return _largest(lambda count: self.with_workload(concurrency=count).fits, MOST_REQUESTS)


@dataclass(frozen=True)
class MemoryPlan(Plan):
    """The memory of a process on this machine's CPU."""

    machine: Machine
    num_ranks: int = 0  # of the vocabulary; 0: ids in, ids out

    @property
    def rows(self) -> dict[str, int]:
        """What takes memory, in bytes; empty rows are left out."""
        network, workload = self.network, self.workload
        rows = {
            **network.weights,
            "rotary tables": network.rotary_bytes,
            "KV cache": workload.num_cache_tokens * cache_bytes_per_token(network.config, workload.kind),
            **network.step_rows(workload.step, self.machine.num_threads),
            "tokenizer": TOKENIZER_BYTES_PER_RANK * self.num_ranks,
            "the process itself": self.machine.process_bytes,
        }
        return {name: size for name, size in rows.items() if size}

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.machine.free_bytes

    def _peak(self, loading_bytes: int) -> int:
        return max(self.total_bytes, self.machine.process_bytes + self.network.rotary_bytes + loading_bytes)

    @property
    def peak_unkept_bytes(self) -> int:
        """The peak of the process without a weight cache on disk, when every start repacks the weights."""
        return self._peak(self.network.unkept_bytes)

    @property
    def peak_first_bytes(self) -> int:
        """The peak of the first start with a checkpoint."""
        return self._peak(self.network.packing_bytes) if self.network.kept_bytes else self.peak_unkept_bytes

    @property
    def peak_later_bytes(self) -> int:
        """The peak of a later start."""
        return self.total_bytes if self.network.kept_bytes else self.peak_unkept_bytes

    @property
    def stream(self) -> StreamForecast | None:
        """How the weights would be streamed from disk; None where they fit or cannot be streamed."""
        network = self.network
        if network.weights_bytes <= self.machine.free_bytes or not network.can_stream:
            return None
        head = network.head_bytes + network.weights[WEIGHT_ROWS[3]]
        room = int(self.machine.free_bytes * RESIDENT_FRACTION) - head
        sizes = network.layer_bytes
        resident = _largest(lambda count: sum(sizes[:count]) <= room, len(sizes))
        return StreamForecast(resident, len(sizes), sum(sizes[resident:]))


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to most that fits, given that all smaller ones fit; 0 for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
