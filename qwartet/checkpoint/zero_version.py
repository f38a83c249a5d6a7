"""Which version of the GPTQ format wrote the zeros of an asymmetric checkpoint that does not state it?

Version 1 ("gptq") stores a zero one too low, version 2 ("gptq_v2") as it is. The weights of a linear are about zero on
average, so the codes of a group are on average its zero: their mean, less the zero as it is stored, is 1 in files of
version 1 and 0 in those of version 2. Where it is clearly neither, nothing is assumed.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.quantized_linears import is_quantized
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weights import read_quantized_weight
from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.quant_format.config import FORMATS, GptqConfig
from qwartet.quant_format.packing import unpack_qweight
from qwartet.quant_format.weight import QuantizedWeight

NUM_LINEARS = 10
NUM_OUTPUTS = 1024  # of a linear
CLEARLY = 0.35  # of the step between the versions


def with_zero_version(
    gptq: GptqConfig, checkpoint: Checkpoint, layout: Layout, stated: str | None = None
) -> GptqConfig:
    """The config with its checkpoint_format: the one `stated` by the caller, its own, or what the values decide.

    CheckpointError if the values do not decide it, CheckpointWarning if they do; SettingError for an unknown version.
    Symmetric files need none: each of their zeros shows it.
    """
    if stated is not None:
        if stated not in FORMATS:
            raise SettingError(f"checkpoint_format is {stated!r}; it must be one of {', '.join(FORMATS)}")
        return replace(gptq, checkpoint_format=stated)
    if gptq.sym or gptq.checkpoint_format is not None:
        return gptq
    as_it_is = replace(gptq, checkpoint_format="gptq_v2")
    linears = islice((module for module in layout if is_quantized(module, gptq)), NUM_LINEARS)
    weights = (read_quantized_weight(checkpoint, module, as_it_is, torch.device("cpu")) for module in linears)
    offsets = torch.cat([code_offsets(weight) for weight in weights])
    mean = float(offsets.mean()) if len(offsets) else math.nan
    error = 4 * float(offsets.std()) / math.sqrt(len(offsets)) if len(offsets) > 1 else math.inf
    for name, expected in (("gptq", 1.0), ("gptq_v2", 0.0)):
        if abs(mean - expected) + error < CLEARLY:
            message = f"{checkpoint.directory}: checkpoint_format is not stated; the stored zeros are those of {name}"
            doubt = "if the answers are gibberish, set the other one (--checkpoint-format)"
            warnings.warn(f"{message}, {mean:.2f} below the mean code, and read as such; {doubt}", CheckpointWarning, 3)
            return replace(gptq, checkpoint_format=name)
    reason = "sym is false, checkpoint_format is not stated, and the stored zeros do not decide it"
    hint = (
        "set --checkpoint-format gptq (zeros stored one too low, as by AutoGPTQ) or gptq_v2 (stored as they are), "
        'in Python checkpoint_format=, or add "checkpoint_format" to quantize_config.json'
    )
    raise CheckpointError(checkpoint.directory, reason, hint=hint)


def code_offsets(weight: QuantizedWeight) -> Tensor:
    """By how much the mean code of each group exceeds its zero, fp32 [some of G x N].

    Leaves out zeros stored at an end of their range: version 1 wraps there.
    """
    codes = unpack_qweight(weight.qweight[:, :NUM_OUTPUTS], weight.bits).float()
    zeros = weight.zeros()[:, :NUM_OUTPUTS].float()
    group = weight.group_of_input().long()
    sums = torch.zeros_like(zeros).index_add_(0, group, codes)
    sizes = torch.bincount(group, minlength=weight.num_groups)
    is_inner = (zeros > 0) & (zeros < (1 << weight.bits) - 1)
    return (sums / sizes.unsqueeze(1) - zeros)[is_inner]
