"""A checkpoint directory -> a QwenModel ready to run.

Everything that can be wrong is checked in this order, so that nothing large is read in vain: config.json,
the quantisation config, file sizes and headers, names, shapes, memory; then the tensors one by one.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.kernels.select import select_kernels
from qwartet.layers.linear import QuantizedLinear
from qwartet.layers.rotary import RotaryTable
from qwartet.models.checkpoint import Checkpoint, listed
from qwartet.models.config import ModelConfig, load_config, read_json
from qwartet.models.names import LINEARS, disk_name, is_harmless_extra, layer_of, module_names
from qwartet.models.plan import check_memory, weights_bytes
from qwartet.models.qwen import QwenModel
from qwartet.models.safetensors_file import LoadMode
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight

Dtype = torch.dtype | Literal["auto", "bf16", "bfloat16", "fp16", "float16", "fp32", "float32"]

_DTYPES = {
    "bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16,
    "fp32": torch.float32, "float32": torch.float32,
}  # fmt: skip
HEADS = ("auto", "int8", "exact")
_FILE_FLOATS = ("BF16", "F16", "F32")


def resolve_dtype(dtype: Dtype, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype to compute in. "auto" is the file's, except that fp16 becomes bf16, whose range cannot overflow."""
    if isinstance(dtype, torch.dtype):
        resolved: torch.dtype | None = dtype
    elif dtype == "auto":
        is_float32 = checkpoint.info(f"{disk_name('embedding')}.weight").dtype == "F32"
        resolved = torch.float32 if is_float32 else torch.bfloat16
    else:
        resolved = _DTYPES.get(dtype)
    if resolved not in _DTYPES.values():
        raise SettingError(f"dtype is {dtype!r}; it must be one of auto, {', '.join(_DTYPES)}")
    return resolved


def load_gptq_config(directory: Path) -> GptqConfig | None:
    """The quantisation config from config.json and quantize_config.json, which must agree; None for a float model."""
    found = []
    embedded = read_json(directory / "config.json").get("quantization_config")
    if embedded is not None:
        found.append(GptqConfig.from_dict(embedded, directory / "config.json"))
    separate = directory / "quantize_config.json"
    if separate.is_file():
        found.append(GptqConfig.from_dict(read_json(separate), separate))
    if len(found) == 2:
        return found[0].merge(found[1], separate)
    return found[0] if found else None


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
        warnings.warn(message, CheckpointWarning, stacklevel=3)


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
            if info.dtype not in _FILE_FLOATS:
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


class _Assigner:
    """Puts tensors of a checkpoint into the modules of a model."""

    def __init__(self, model: QwenModel, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self.model, self.checkpoint, self.dtype, self.device = model, checkpoint, dtype, device

    def _parameter(self, name: str) -> nn.Parameter:
        tensor: Tensor = self.checkpoint.read(name).to(self.device, self.dtype)
        return nn.Parameter(tensor, requires_grad=False)

    def dense(self, module_name: str) -> None:
        module = self.model.get_submodule(module_name)
        name = disk_name(module_name)
        module.weight = self._parameter(f"{name}.weight")
        if _is_linear(module_name):
            has_bias = f"{name}.bias" in self.checkpoint
            module.bias = self._parameter(f"{name}.bias") if has_bias else None

    def quantized(self, module_name: str, gptq: GptqConfig) -> None:
        weight = read_quantized_weight(self.checkpoint, module_name, self.model.config, gptq, self.device)
        parent, _, leaf = module_name.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, QuantizedLinear(weight, self.model.kernels))


def load_model(
    directory: Path,
    *,
    dtype: Dtype = "auto",
    device: torch.device | str = "cpu",
    load_mode: LoadMode = "mmap",
    force: bool = False,
    activations: str | None = None,
    head: str = "auto",
) -> QwenModel:
    """The network of a checkpoint directory, in eval mode and without gradients.

    Raises CheckpointError when anything in the directory is wrong, OutOfMemoryError when the weights do not
    fit (unless `force`), SettingError for an unknown dtype, load mode, kind of activations ("exact", "int8") or head.

    `head` "int8" keeps an 8-bit copy of lm_head, where the kernels have a use for one: greedy tokens are the same and
    come sooner (layers/head.py). "auto" does so beside quantised weights, where the head is most of what a token reads.
    """
    device = torch.device(device)
    config = load_config(directory)
    gptq = load_gptq_config(directory)
    checkpoint = Checkpoint(directory, load_mode)
    check_names(checkpoint, config, gptq)
    check_dense_shapes(checkpoint, config, gptq)
    resolved = resolve_dtype(dtype, checkpoint)
    if head not in HEADS:
        raise SettingError(f"head is {head!r}; it must be one of {', '.join(HEADS)}")
    packs_head = head == "int8" or (head == "auto" and gptq is not None)
    kernels = select_kernels(
        device,
        resolved,
        activations=activations,
        head_dim=config.head_dim,
        rotary_dim=config.position.rotary_dim,
    )
    if not force:
        needed = weights_bytes(checkpoint, resolved, gptq=gptq, kernels=kernels, packed_head=packs_head)
        check_memory(checkpoint, needed, device)
    rotary = RotaryTable(config.position, device)
    with torch.device("meta"):
        model = QwenModel(config, rotary, kernels)
    assign = _Assigner(model, checkpoint, resolved, device)
    for module_name in module_names(config.num_layers):
        if gptq is not None and _is_linear(module_name):
            assign.quantized(module_name, gptq)
        else:
            assign.dense(module_name)
    if packs_head:
        model.lm_head.pack()
    return model.eval()
