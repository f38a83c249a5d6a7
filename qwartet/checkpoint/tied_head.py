"""Tied embeddings: does a checkpoint hold the embedding, the output head, or both?

transformers writes only the embedding. Other tools write both, or only the head. Two that differ are not tied, whatever
config.json says: transformers 5 loads them as they are, and so does Qwartet.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointWarning

SLICE_ROWS = 4096  # compared at a time


def as_stored(layout: Layout, checkpoint: Checkpoint) -> Layout:
    """The layout with embedding and head under the names by which this checkpoint holds them.

    CheckpointWarning for two that should be tied and differ.
    """
    spare = layout.spare_head
    if spare is None or f"{spare}.weight" not in checkpoint:
        return layout
    embedding = layout["embedding"]
    own = ((spare, embedding.shape[0]),)
    if f"{embedding.disk_name}.weight" not in checkpoint:
        return _with_parts(layout, {"embedding": own, "lm_head": own})
    if _are_equal(checkpoint, embedding.shape, f"{embedding.disk_name}.weight", f"{spare}.weight"):
        return layout
    message = f"{checkpoint.directory}: tie_word_embeddings is true, but {spare}.weight differs from the embedding"
    warnings.warn(f"{message}; both are used", CheckpointWarning, stacklevel=4)
    return _with_parts(layout, {"lm_head": own})


def _with_parts(layout: Layout, parts: dict[str, tuple[tuple[str, int], ...]]) -> Layout:
    modules = (replace(spec, parts=parts.get(spec.name, spec.parts)) for spec in layout)
    return replace(layout, modules=tuple(modules))


def _are_equal(checkpoint: Checkpoint, shape: tuple[int, ...], *names: str) -> bool:
    """Whether two tensors are equal; False where one does not have this shape, which loading reports."""
    first, second = (checkpoint.info(name) for name in names)
    if not (first.shape == second.shape == shape) or first.dtype != second.dtype:
        return False
    a, b = (checkpoint.read(name) for name in names)
    return all(torch.equal(*rows) for rows in zip(a.split(SLICE_ROWS), b.split(SLICE_ROWS), strict=True))
