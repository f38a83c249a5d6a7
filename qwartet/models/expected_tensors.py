"""What a checkpoint must hold: the names and shapes that config.json implies, checked before anything large is read."""

from __future__ import annotations

import warnings

import torch

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.checkpoint import Checkpoint, listed
from qwartet.models.config import ModelConfig
from qwartet.models.names import LINEARS, disk_name, is_harmless_extra, layer_of, module_names
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight

FILE_FLOATS = ("BF16", "F16", "F32")


def dense_shape(config: ModelConfig, module: str) -> tuple[tuple[int, ...], str]:
    """Shape [out, in] (or [size]) of a module's weight, and the config fields that imply it."""
    hidden, mlp, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    attention, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    kind = module.split(".", 2)[-1] if module.startswith("layers.") else module
    return {
        "embedding": ((vocab, hidden), "vocab_size, hidden_size"),
        "lm_head": ((vocab, hidden), "vocab_size, hidden_size"),
        "norm": ((hidden,), "hidden_size"),
        "attention_norm": ((hidden,), "hidden_size"),
        "mlp_norm": ((hidden,), "hidden_size"),
        "attention.qkv": ((attention + 2 * kv, hidden), "3 * hidden_size, hidden_size"),
        "attention.output": ((hidden, attention), "hidden_size, hidden_size"),
        "mlp.up": ((mlp, hidden), "intermediate_size / 2, hidden_size"),
        "mlp.gate": ((mlp, hidden), "intermediate_size / 2, hidden_size"),
        "mlp.down": ((hidden, mlp), "hidden_size, intermediate_size / 2"),
    }[kind]


def _is_linear(module: str) -> bool:
    return module.endswith(LINEARS)


def _expected_names(config: ModelConfig, gptq: GptqConfig | None) -> tuple[list[str], set[str]]:
    """Names on disk that must be there, and those that may be."""
    required, optional = [], set()
    for module in module_names(config.num_layers):
        name = disk_name(module)
        if gptq is not None and _is_linear(module):
            required += [f"{name}.qweight", f"{name}.qzeros", f"{name}.scales"]
            optional.add(f"{name}.g_idx")
            required += [f"{name}.g_idx"] if gptq.desc_act else []
        else:
            required.append(f"{name}.weight")
        if module.endswith("attention.qkv"):
            required.append(f"{name}.bias")
        elif _is_linear(module):
            optional.add(f"{name}.bias")
    return required, optional


def check_names(checkpoint: Checkpoint, config: ModelConfig, gptq: GptqConfig | None) -> None:
    """CheckpointError for missing tensors and for layers too many, CheckpointWarning for other unexpected tensors."""
    required, optional = _expected_names(config, gptq)
    missing = [name for name in required if name not in checkpoint]
    if missing:
        hint = "config.json and weights belong to different models, or the download is incomplete"
        if gptq is None and any(name.endswith(".qweight") for name in checkpoint):
            hint = "the weights are quantised: fetch the quantize_config.json that belongs to them"
        raise CheckpointError(checkpoint.directory, f"{len(missing)} tensors missing: {listed(missing)}", hint=hint)
    known = optional.union(required)
    extra = [name for name in checkpoint if name not in known and not is_harmless_extra(name)]
    beyond = [name for name in extra if (layer_of(name) or 0) >= config.num_layers]
    if beyond:
        reason = f"num_hidden_layers is {config.num_layers}, and there are tensors of more: {listed(beyond)}"
        raise CheckpointError(checkpoint.directory, reason, hint="config.json belongs to another model")
    if extra:
        message = f"{checkpoint.directory}: {len(extra)} tensors of no use for this model, ignored: {listed(extra)}"
        warnings.warn(message, CheckpointWarning, stacklevel=4)


def check_dense_shapes(checkpoint: Checkpoint, config: ModelConfig, gptq: GptqConfig | None) -> None:
    """CheckpointError for a float tensor whose dtype is no float or whose shape is not what config.json implies."""
    for module in module_names(config.num_layers):
        shape, fields = dense_shape(config, module)
        expected = {"bias": shape[:1]} if _is_linear(module) else {}
        if gptq is None or not _is_linear(module):
            expected["weight"] = shape
        for leaf, want in expected.items():
            name = f"{disk_name(module)}.{leaf}"
            if name not in checkpoint:
                continue
            info = checkpoint.info(name)
            if info.shape != want:
                reason = f"shape is {list(info.shape)}; config.json implies {list(want)} ({fields})"
                raise CheckpointError(info.file, reason, tensor=name)
            if info.dtype not in FILE_FLOATS:
                raise CheckpointError(info.file, f"dtype is {info.dtype}; it must be BF16, F16 or F32", tensor=name)


def read_quantized_weight(
    checkpoint: Checkpoint, module: str, config: ModelConfig, gptq: GptqConfig, device: torch.device
) -> QuantizedWeight:
    """The checked GPTQ weight of one linear, as the file has it."""
    name = disk_name(module)
    file = checkpoint.info(f"{name}.qweight").file
    names = {leaf: f"{name}.{leaf}" for leaf in ("qweight", "qzeros", "scales", "g_idx", "bias")}
    tensors = {leaf: checkpoint.read(full).to(device) for leaf, full in names.items() if full in checkpoint}
    weight = QuantizedWeight.from_tensors(tensors, gptq, name=name, path=file)
    want, fields = dense_shape(config, module)
    found = (weight.out_features, weight.in_features)
    if found != want:
        reason = f"holds a weight of {list(found)} at {gptq.bits} bits; config.json implies {list(want)} ({fields})"
        raise CheckpointError(file, reason, tensor=f"{name}.qweight", hint="bits, or one of these fields, is wrong")
    return weight
