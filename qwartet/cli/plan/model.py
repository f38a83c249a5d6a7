"""Whose memory is planned: a checkpoint on this machine, or a published one by its name, whose shapes are known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from qwartet.errors import ModelNotFoundError, SettingError
from qwartet.hub.resolve import resolve
from qwartet.models.shapes import SHAPES, Precision, Shape, gptq_config

if TYPE_CHECKING:
    from qwartet.planning.stored_model import PlannedModel

# Qwen/Qwen-72B-Chat-Int4, qwen-1_8b, modelscope:qwen/Qwen-7B-Chat
_PUBLISHED = re.compile(
    r"(?:(?:hf|modelscope):)?(?:qwen/)?qwen-(1_8b|1\.8b|7b|14b|72b)(?:-chat)?(?:-(int4|int8))?", re.IGNORECASE
)


def find_model(name: str, precision: Precision | None, revision: str | None) -> PlannedModel:
    """A directory, a downloaded hub id, a published size ("72b") or a published name, in this order.

    ModelNotFoundError for any other name, SettingError for options that do not belong to it.
    """
    size = SHAPES.get(name.lower())  # type: ignore[call-overload]
    if size is not None and (precision is not None or not Path(name).is_dir()):
        if revision is not None:
            raise SettingError(f"--revision belongs to a hub id, and {name} is a published size; leave it out")
        return _published(size, precision or "int4")
    if precision is not None:
        raise SettingError(f"--precision needs a published size ({', '.join(SHAPES)}); {name} has one of its own")
    from qwartet.planning.stored_model import stored_model

    try:
        return stored_model(resolve(name, revision=revision, download=False))
    except ModelNotFoundError as error:
        published = _PUBLISHED.fullmatch(name)
        if published is None:
            choice = f"{', '.join(SHAPES)}, or a name such as Qwen/Qwen-72B-Chat-Int4"
            raise ModelNotFoundError(f"{error}; without a download: {choice}") from None
        size = SHAPES[published[1].lower().replace("_", ".")]  # type: ignore[index]
        return _published(size, (published[2] or "bf16").lower())  # type: ignore[arg-type]


def _published(size: Shape, precision: Precision) -> PlannedModel:
    from qwartet.bench.synth import plan_synthesis
    from qwartet.planning.planned_checkpoint import PlannedCheckpoint
    from qwartet.planning.stored_model import PlannedModel

    gptq = gptq_config(precision)
    planned = plan_synthesis(size, gptq)
    tensors = ((tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) for tensor in planned.tensors)
    checkpoint = PlannedCheckpoint(size.name, tensors)
    return PlannedModel(checkpoint, planned.config, gptq, size.num_ranks, size.name, precision)
