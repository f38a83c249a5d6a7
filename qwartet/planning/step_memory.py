"""Working memory of one step: scratch of the native kernels, tensors beside it, logits, the sampler's copies.

    native      each Scratch buffer of csrc/thread_pool.h at the largest request for it; they are kept between steps
    reference   what the composed modules hold at once; an estimate, since torch chooses its own temporaries

The sums follow csrc/activations.cpp, decoder_layer.cpp, attention.cpp, head.cpp and quantized_linear.cpp. They are
upper bounds: every activation is counted with its `low`, which the mode "int8" computes for some groups only.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwartet.kernels.cpu.weights import GROUP, PANEL
from qwartet.models.config import ModelConfig
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import TILE_VALUES

CHUNK_TOKENS = 512  # of activations.h
KEYS_OF_CHUNK = 512  # of attention.cpp, and the next two
TILE_ROWS = 12
PARTIALS_BYTES = 4 * (2 * TILE_ROWS + TILE_ROWS * 256)
PART_BYTES = 12
# Of one row of logits while it is sampled: changed, scaled, and a random number for every id (measured: 48 bytes).
# Rows are sampled one after another.
SAMPLER_BYTES_PER_LOGIT = 56
INDEX_BYTES_PER_TOKEN = 6 * 8  # the index tensors of a ForwardBatch


@dataclass(frozen=True)
class StepSize:
    """The largest step of an engine."""

    num_tokens: int
    num_rows: int  # of logits at once
    context: int  # tokens of the longest request
    max_blocks: int  # of one request


@dataclass(frozen=True)
class NativeKernels:
    """What the scratch memory of the native library depends on beside the shape."""

    num_threads: int
    gptq: GptqConfig | None
    has_packed_head: bool


def _qkv_width(config: ModelConfig) -> int:
    return (config.num_heads + 2 * config.num_kv_heads) * config.head_dim


def _unit(gptq: GptqConfig) -> int:
    """Inputs that share a scale in packed memory."""
    if gptq.group_size == -1:
        return GROUP
    return next((unit for unit in (128, 64, 32) if gptq.group_size % unit == 0), 32)


def _quantised_activations(num_tokens: int, num_inputs: int, unit: int) -> int:
    """The buffers `activations`, `parts` and `sums` for the inputs of a packed linear."""
    groups, chunks = -(-num_inputs // GROUP), -(-num_tokens // CHUNK_TOKENS)
    units, room = groups * (GROUP // unit), 2 * min(num_tokens, CHUNK_TOKENS)
    values = chunks * groups * room * GROUP
    parts = chunks * units * room * PART_BYTES + 4 * chunks * groups
    sums = 8 * units * num_tokens + (4 + 1 + GROUP) * groups * num_tokens
    return values + parts + sums


def native_scratch_bytes(config: ModelConfig, kernels: NativeKernels, step: StepSize) -> int:
    """Bytes of all scratch buffers of the native library once the largest step has run."""
    tokens, mlp = step.num_tokens, config.intermediate_size
    attention = config.num_heads * config.head_dim
    inputs = max(config.hidden_size, attention, mlp)
    padded_dense = 2 * tokens * (inputs + 64)
    rounded = 0 if kernels.gptq is None else _quantised_activations(tokens, inputs, _unit(kernels.gptq))
    if kernels.has_packed_head:
        rounded = max(rounded, _quantised_activations(step.num_rows, config.hidden_size, GROUP))
    shares_activations = kernels.gptq is not None and not kernels.gptq.desc_act
    hidden = 2 * tokens * mlp * (1 if shares_activations else 2)
    norm_and_qkv = 2 * tokens * (max(config.hidden_size, attention) + _qkv_width(config))
    # Only with fewer tiles than this are the keys of one split over tasks.
    partials = (2 * kernels.num_threads - 1) * -(-step.context // KEYS_OF_CHUNK) * PARTIALS_BYTES
    candidates = 4 * step.num_rows * config.vocab_size if kernels.has_packed_head else 0
    of_thread = max(8 * min(tokens, CHUNK_TOKENS) * PANEL, 4 * (TILE_ROWS * KEYS_OF_CHUNK + 16 * 256))
    return max(padded_dense, rounded) + hidden + norm_and_qkv + partials + candidates + kernels.num_threads * of_thread


def native_tensor_bytes(config: ModelConfig, step: StepSize) -> int:
    """Bytes of torch's tensors beside the native scratch: the residual stream, the rows for the head, the indices."""
    stream = 4 * config.hidden_size * (step.num_tokens + 2 * step.num_rows)
    return stream + INDEX_BYTES_PER_TOKEN * step.num_tokens + 8 * step.num_rows * step.max_blocks


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
    """Bytes on each of `num_gpus` GPUs: the residual stream is whole on each, what the linears make is shared out."""
    stream = step.num_tokens * config.hidden_size * (2 * 4 + itemsize)
    widths = _qkv_width(config) + config.num_heads * config.head_dim + 3 * config.intermediate_size
    shared = -(-step.num_tokens * widths * itemsize // num_gpus)
    return stream + shared + INDEX_BYTES_PER_TOKEN * step.num_tokens + 8 * step.num_rows * step.max_blocks
