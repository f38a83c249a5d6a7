"""What the headers and configs of a checkpoint say: all that a plan of its memory needs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from qwartet.checkpoint.expected_tensors import check_dense_shapes, check_names
from qwartet.checkpoint.shards import Checkpoint
from qwartet.models.config import ModelConfig
from qwartet.models.families import family_of, layout_of, load_config
from qwartet.models.load import load_gptq_config
from qwartet.quant_format.config import GptqConfig

_PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


class PlannedModel(NamedTuple):
    """What headers and configs say of a model."""

    checkpoint: Checkpoint
    config: ModelConfig
    gptq: GptqConfig | None
    num_ranks: int  # of its vocabulary; 0 without one
    size: str | None  # "72b" of a published model that need not be on this machine
    precision: str  # "int4", "int8", "bf16", "fp16" or "fp32"


def stored_model(directory: Path) -> PlannedModel:
    """The model in a directory; CheckpointError where its configs or headers are wrong."""
    config, gptq, checkpoint = load_config(directory), load_gptq_config(directory), Checkpoint(directory)
    layout = layout_of(config, checkpoint)
    check_names(checkpoint, layout, gptq)
    check_dense_shapes(checkpoint, layout, gptq)
    num_ranks = sum(file.read_bytes().count(b"\n") for file in directory.glob("*.tiktoken"))
    if not num_ranks and family_of(config).has_tokenizer(directory):
        num_ranks = config.vocab_size
    if gptq is not None:
        precision = f"int{gptq.bits}"
    else:
        precision = _PRECISIONS[checkpoint.info(layout.parameter_name("embedding.weight")).dtype]
    return PlannedModel(checkpoint, config, gptq, num_ranks, None, precision)
