"""What `qwartet plan` says of the rows of a checkpoint: memory, arithmetic and memory traffic.

It runs in the environment of the rows, since weights, scratch memory and the process differ with the kernels.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import qwartet.llm  # noqa: F401  what a process takes by itself is measured on this one
from qwartet.bench.profile.row import Forecast, Work
from qwartet.engine.engine_config import CPU_BATCHED_TOKENS
from qwartet.models.config import ModelConfig
from qwartet.models.load import choose_settings
from qwartet.models.shapes import published_size
from qwartet.planning.decode_speed import read_bytes
from qwartet.planning.memory_plan import (
    MemoryPlan,
    NetworkMemory,
    Workload,
    cache_bytes_per_token,
    cache_kind,
    network_memory,
    this_machine,
)
from qwartet.planning.stored_model import stored_model


def forecast_rows(
    directory: Path, lengths: list[tuple[int, int]], kv_cache_dtypes: list[str], activations: str | None, head: str
) -> dict[str, Any]:
    """Plain values: facts of the checkpoint, and a forecast for each kind of cache and (context, generate).

    CheckpointError and SettingError as loading would raise them. A forecast is None where the model has no room.
    """
    model = stored_model(directory)
    config = model.config
    settings = choose_settings(model.checkpoint, config, model.gptq, activations=activations, head=head)
    network = network_memory(model.checkpoint, config, settings)
    machine = this_machine()

    def forecast(name: str, context: int, generate: int) -> dict[str, Any] | None:
        if context + generate > config.position.max_length:
            return None
        workload = Workload(context + generate, 1, cache_kind(name, settings.dtype))
        made = MemoryPlan(network, workload, machine, model.num_ranks)
        found = Forecast(
            total_bytes=made.total_bytes,
            free_bytes=machine.free_bytes,
            peak_bytes=made.peak_later_bytes,
            peak_unpacked_bytes=made.peak_unkept_bytes,
            prefill=_prefill_work(network, workload.kind, context),
            decode=decode_work(network, workload.kind, context + generate // 2),
        )
        works = {"prefill": found.prefill._asdict(), "decode": found.decode._asdict()}
        return {**asdict(found), **works}

    return {
        "size": published_size(config.hidden_size, config.num_layers, config.family),
        "precision": model.precision,
        "max_length": config.position.max_length,
        "checkpoint_bytes": model.checkpoint.nbytes,
        "keeps_packed": network.kept_bytes > 0,
        "rows": [
            {
                "asked_kv_cache_dtype": name,
                "kv_cache_dtype": cache_kind(name, settings.dtype),
                "context": context,
                "generate": generate,
                "forecast": forecast(name, context, generate),
            }
            for context, generate in lengths
            for name in kv_cache_dtypes
        ],
    }


def _attention_operations(config: ModelConfig, num_keys: int) -> int:
    """Operations of one token's attention over `num_keys` keys in all layers: scores, and the sum of values."""
    return 4 * config.num_layers * config.num_heads * config.head_dim * num_keys


def decode_work(network: NetworkMemory, kind: str, context: int) -> Work:
    """Of one token after `context` others."""
    config = network.config
    head = config.hidden_size * config.vocab_size
    operations = 2 * (config.num_linear_parameters + head) + _attention_operations(config, context)
    return Work(operations, read_bytes(network, kind, context))


def _prefill_work(network: NetworkMemory, kind: str, context: int) -> Work:
    """Of a prompt: each chunk reads the weights once and the keys and values so far; the last token needs the head."""
    config, weights = network.config, network.weights
    operations = 2 * (context * config.num_linear_parameters + config.hidden_size * config.vocab_size)
    operations += _attention_operations(config, context * (context + 1) // 2)
    ends = range(CPU_BATCHED_TOKENS, context + CPU_BATCHED_TOKENS, CPU_BATCHED_TOKENS)
    layers = weights["linears"] + weights["norms and biases"]
    head = read_bytes(network, kind, 0) - layers
    keys = sum(min(end, context) for end in ends) * cache_bytes_per_token(config, kind)
    return Work(operations, len(ends) * layers + head + keys)
