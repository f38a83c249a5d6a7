"""Working memory of one step: scratch of the kernels, tensors beside it, logits, the sampler's copies.

    native      scratch as the library itself counts it (Backend.scratch_bytes); it is kept between steps
    reference   what the composed modules hold at once; an estimate, since torch chooses its own temporaries

These are upper bounds: every activation includes its `low`, which the mode "int8" computes for some groups only.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwartet.checkpoint.held_tensors import LoadSettings
from qwartet.kernels.backend import StepShape
from qwartet.models.config import ModelConfig
from qwartet.quant_format.weight import TILE_VALUES

# Of one row of logits while it is sampled: modified, scaled, and a random number for every id (measured: 48 bytes).
# Rows are sampled one after another.
SAMPLER_BYTES_PER_LOGIT = 56
INDEX_BYTES_PER_TOKEN = 5 * 4  # the index tensors of a ForwardBatch


@dataclass(frozen=True)
class StepSize:
    """The largest step of an engine."""

    num_tokens: int
    num_rows: int  # of logits at once
    context: int  # tokens of the longest request
    max_blocks: int  # of one request


def _qkv_width(config: ModelConfig) -> int:
    return (config.num_heads + 2 * config.num_kv_heads) * config.head_dim


def step_shape(config: ModelConfig, settings: LoadSettings, step: StepSize, num_threads: int) -> StepShape:
    """The step for which the kernels report their scratch memory."""
    return StepShape(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        gptq=settings.gptq,
        has_prepared_head=settings.prepares_head,
        num_tokens=step.num_tokens,
        num_rows=step.num_rows,
        context=step.context,
        num_threads=num_threads,
    )


def native_tensor_bytes(config: ModelConfig, step: StepSize) -> int:
    """Bytes of torch's tensors besides the native scratch: the residual stream, the rows for the head, the indices."""
    stream = 4 * config.hidden_size * (step.num_tokens + 2 * step.num_rows)
    return stream + INDEX_BYTES_PER_TOKEN * step.num_tokens + 4 * step.num_rows * step.max_blocks


def reference_bytes(config: ModelConfig, itemsize: int, is_quantised: bool, step: StepSize) -> int:
    """Bytes that the composed modules hold at once in a dtype of `itemsize` bytes; an estimate."""
    tokens, hidden = step.num_tokens, config.hidden_size
    stream = tokens * hidden * (3 * 4 + itemsize)
    mlp = 4 * tokens * config.intermediate_size * itemsize
    gathered = 2 * step.context * config.num_kv_heads * config.head_dim * max(itemsize, 2)
    attention = tokens * _qkv_width(config) * (itemsize + 2 * 4) + gathered + 5 * tokens * step.context
    largest_linear = max(hidden * _qkv_width(config), hidden * config.intermediate_size)
    dequantised = largest_linear * itemsize + 13 * TILE_VALUES if is_quantised else 0
    logits = step.num_rows * config.vocab_size * itemsize  # before they are fp32
    return stream + max(mlp, attention) + dequantised + logits + INDEX_BYTES_PER_TOKEN * tokens


def logits_bytes(config: ModelConfig, step: StepSize) -> int:
    """Bytes of the logits of a step in fp32."""
    return 4 * step.num_rows * config.vocab_size


def sampler_bytes(config: ModelConfig) -> int:
    """Bytes of the copies of one row of logits while a token is drawn from it."""
    return SAMPLER_BYTES_PER_LOGIT * config.vocab_size


def gpu_bytes(config: ModelConfig, itemsize: int, num_gpus: int, step: StepSize) -> int:
    """Bytes on each of `num_gpus` GPUs: each has the full residual stream and its share of the linears' outputs."""
    stream = step.num_tokens * config.hidden_size * (2 * 4 + itemsize)
    widths = _qkv_width(config) + config.num_heads * config.head_dim + 3 * config.intermediate_size
    shared = -(-step.num_tokens * widths * itemsize // num_gpus)
    return stream + shared + INDEX_BYTES_PER_TOKEN * step.num_tokens + 4 * step.num_rows * step.max_blocks
