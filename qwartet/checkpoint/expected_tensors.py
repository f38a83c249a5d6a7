"""Does a checkpoint hold what its layout says? Names, shapes and dtypes are checked before anything large is read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.other_kinds import adapter_error
from qwartet.checkpoint.quantized_linears import is_quantized
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weight_files import listed
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.quant_format.config import GptqConfig

FILE_FLOATS = ("BF16", "F16", "F32")
_OTHER_MODEL = "config.json and weights belong to different models"
_OTHER_DTYPE = "use a checkpoint with float weights, or one quantised by GPTQ or AWQ"


def _expected_names(layout: Layout, gptq: GptqConfig | None) -> tuple[list[str], set[str]]:
    """Names on disk that are required, and those that are optional."""
    required, optional = [], set()
    for module in layout:
        leaves = ["weight"]
        if gptq is not None and is_quantized(module, gptq):
            leaves = ["qweight", "qzeros", "scales", *(["g_idx"] if gptq.desc_act else [])]
            optional.update(module.disk_names("g_idx"))
        if module.needs_bias:
            leaves.append("bias")
        elif module.kind == "linear":
            optional.update(module.disk_names("bias"))
        required += [name for leaf in leaves for name in module.disk_names(leaf)]
    return required, optional


def check_names(checkpoint: Checkpoint, layout: Layout, gptq: GptqConfig | None) -> None:
    """CheckpointError for missing tensors and for surplus layers, CheckpointWarning for other unexpected tensors."""
    if any(".lora_" in name for name in checkpoint):
        raise adapter_error(checkpoint.directory)
    required, optional = _expected_names(layout, gptq)
    missing = [name for name in dict.fromkeys(required) if name not in checkpoint]
    if missing:
        hint = "config.json and weights belong to different models, or the download is incomplete"
        if gptq is None and any(name.endswith(".qweight") for name in checkpoint):
            hint = "the weights are quantised: fetch the quantize_config.json that belongs to them"
        if gptq is not None and _stored_as_float(missing[0]) in checkpoint:
            hint = "all parts of a linear (q, k and v) must be quantised, or none: quantise the model again"
        if layout.can_tie and not layout.is_tied and missing == layout["lm_head"].disk_names("weight"):
            hint = "if the model shares its embedding, set tie_word_embeddings to true; otherwise fetch it again"
        raise CheckpointError(checkpoint.directory, f"missing tensors: {listed(missing)}", hint=hint)
    _check_biases(checkpoint, layout)
    known = optional.union(required)
    extra = [name for name in checkpoint if name not in known and not layout.is_harmless_extra(name)]
    beyond = [name for name in extra if (layout.layer_of(name) or 0) >= layout.num_layers]
    if beyond:
        reason = f"num_hidden_layers is {layout.num_layers}, but there are tensors of further layers: {listed(beyond)}"
        raise CheckpointError(checkpoint.directory, reason, hint="config.json belongs to another model")
    _check_kinds(extra, checkpoint, layout)
    if extra:
        message = f"{checkpoint.directory}: tensors that this model does not use, ignored: {listed(extra)}"
        warnings.warn(message, CheckpointWarning, stacklevel=4)


def _check_kinds(extra: list[str], checkpoint: Checkpoint, layout: Layout) -> None:
    """CheckpointError for a weight that every layer has and the network has not: without it, the answers are wrong."""
    parts = {part for module in layout for part, _rows in module.parts}
    kinds: dict[str, list[str]] = {}
    for name in extra:
        module, _, leaf = name.rpartition(".")
        if layout.layer_of(name) is not None and leaf in ("weight", "bias") and module not in parts:
            kinds.setdefault(re.sub(r"\.\d+\.", ".", name, count=1), []).append(name)
    found = [names[0] for names in kinds.values() if len(names) == layout.num_layers]
    if found:
        reason = f"every layer holds weights that this model does not use: {listed(found)}"
        raise CheckpointError(checkpoint.directory, reason, hint="config.json belongs to another model")


def _stored_as_float(name: str) -> str:
    """The name that a tensor of a quantised linear has where it is a float one."""
    return f"{name.rpartition('.')[0]}.weight"


def _check_biases(checkpoint: Checkpoint, layout: Layout) -> None:
    """CheckpointError if a linear, or a part of one, lacks a bias that the same linear of other layers has."""
    kinds: dict[str, list[str]] = {}
    for module in layout:
        if module.kind == "linear" and module.allows_bias:
            kinds.setdefault(re.sub(r"\.\d+\.", ".", module.name), []).extend(module.disk_names("bias"))
    for names in kinds.values():
        lost = [name for name in names if name not in checkpoint]
        if 0 < len(lost) < len(names):
            reason = f"{len(lost)} of {len(names)} linears of one kind lack the bias of the others: {listed(lost)}"
            hint = "these tensors were lost: fetch the checkpoint again, or quantise it again"
            raise CheckpointError(checkpoint.directory, reason, tensor=lost[0], hint=hint)


def check_dense_shapes(checkpoint: Checkpoint, layout: Layout, gptq: GptqConfig | None) -> None:
    """CheckpointError for an unquantised tensor whose dtype is not a float or whose shape contradicts config.json."""
    for module in layout:
        for name, want in _dense_shapes(module, is_quantized(module, gptq)):
            if name not in checkpoint:
                continue
            info = checkpoint.info(name)
            if info.shape != want:
                reason = f"shape is {list(info.shape)}; config.json implies {list(want)} ({module.fields})"
                raise CheckpointError(info.file, reason, tensor=name, hint=_OTHER_MODEL)
            if info.dtype not in FILE_FLOATS:
                reason = f"dtype is {info.dtype}; it must be BF16, F16 or F32"
                raise CheckpointError(info.file, reason, tensor=name, hint=_OTHER_DTYPE)


def _dense_shapes(module: ModuleSpec, has_codes: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names on disk of a module's float tensors, with their shapes."""
    for part, rows in module.parts:
        if module.kind == "linear":
            yield f"{part}.bias", (rows,)
        if not has_codes:
            yield f"{part}.weight", (rows, *module.shape[1:])
