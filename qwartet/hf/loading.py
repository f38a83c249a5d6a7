"""A checkpoint directory -> QWenLMHeadModel: Qwartet's checks and weights, transformers' placement.

Every check of load_model runs first, so that a missing tensor is an error and not a random one, and no file outside the
directory is read. Then transformers places the tensors, which are mapped from the files: dtype, device_map, offloading.
Last, the weights that run on the native kernels are repacked, or mapped from the weight cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.held_tensors import HeldTensor, LoadSettings, held_tensors
from qwartet.checkpoint.weight_cache import weights_of
from qwartet.checkpoint.weight_values import check_values
from qwartet.checkpoint.weights import Weights
from qwartet.errors import SettingError
from qwartet.hf.backend import NATIVE_DTYPE
from qwartet.hf.config import QWenConfig
from qwartet.hf.gptq_linear import LEAVES, GptqLinear
from qwartet.hub.location import LOCATION_ARGUMENTS, locate
from qwartet.models.families import check_first_generation, load_config
from qwartet.models.load import Dtype, OpenCheckpoint, choose_settings, open_checkpoint, streamed_layers
from qwartet.models.residency import fits_memory, memory_error, told_of_memory, weights_bytes
from qwartet.quant_format.argument import check_same_bits

_FLAGS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# How transformers finds and reads files, and which attention runs: here decided by the checkpoint and the kernels.
_WITHOUT_EFFECT = (
    "use_safetensors", "weights_only", "attn_implementation", "use_flash_attention_2", "low_cpu_mem_usage",
    "_fast_init", "trust_remote_code", "code_revision", "_from_auto", "_from_pipeline", "_commit_hash", "disable_mmap",
    "mirror", "ignore_mismatched_sizes", "use_kernels", "kernel_config", "allow_all_kernels", "tqdm_class",
    "fusion_config", "experts_implementation",
)  # fmt: skip
_REFUSED: Mapping[str, str] = {
    "variant": "pass a directory with these weights",
    "gguf_file": "pass a directory with safetensors",
    "key_mapping": "rename the tensors in a copy of the checkpoint",
    "load_in_8bit": "use an -Int8 checkpoint, or make one with `qwartet quantize`",
    "load_in_4bit": "use an -Int4 checkpoint, or make one with `qwartet quantize`",
    "tp_plan": "use device_map, or LLM",
    "tp_size": "use device_map, or LLM",
    "distributed_config": "use device_map, or LLM",
}


def requested_dtype(config: QWenConfig, arguments: dict[str, Any]) -> Dtype:
    """The dtype that a caller asks for by dtype, torch_dtype or a flag; "auto" is the file's, with bf16 for fp16.

    Removes the arguments; SettingError if they contradict each other.
    """
    given = [arguments.pop(name, None) for name in ("dtype", "torch_dtype")]
    named: Any = next((one for one in given if one is not None), None)
    if isinstance(named, str) and named != "auto":
        name = named.removeprefix("torch.")
        named = _FLAGS.get(name, getattr(torch, name, named))
        if not isinstance(named, torch.dtype):
            raise SettingError(f"dtype is {name!r:.40}; use 'auto', torch.bfloat16, torch.float16 or torch.float32")
    flag = config.requested_dtype
    if flag is not None and named not in (None, "auto", _FLAGS[flag]):
        raise SettingError(f"{flag}=True, but dtype is {named}; pass one of them", param="dtype")
    if flag is not None:
        return _FLAGS[flag]
    return "auto" if named is None or isinstance(named, str) else named


def checked_arguments(arguments: dict[str, Any], config: QWenConfig) -> dict[str, Any]:
    """The arguments that are left for transformers; SettingError for one that is not supported."""
    for name, hint in _REFUSED.items():
        if arguments.pop(name, None) not in (None, False):
            raise SettingError(f"{name} is not supported for this model; {hint}", param=name)
    check_same_bits(arguments.pop("quantization_config", None), config.gptq)
    return {name: value for name, value in arguments.items() if name not in _WITHOUT_EFFECT}


def located(name: Any, arguments: dict[str, Any]) -> Path:
    """Directory of a model: itself, or that of a hub id, which is downloaded without the code that comes with it."""
    place = {key: arguments.pop(key) for key in LOCATION_ARGUMENTS if key in arguments}
    revision = place.get("revision")
    if revision is not None:  # transformers passes an object that resolves to a commit
        place["revision"] = str(getattr(revision, "initial", None) or revision)
    return locate(name, place)


@told_of_memory()
def load(model_class: Any, name: Any, config: Any, arguments: dict[str, Any]) -> Any:
    """What `model_class.from_pretrained(name, config=config, **arguments)` returns.

    Raises what load_model raises, and SettingError for arguments that are not supported.
    """
    arguments = dict(arguments)
    adapter = arguments.pop("adapter_kwargs", None) or {}
    generation_config = arguments.pop("generation_config", None)
    wants_info = arguments.pop("output_loading_info", False)
    directory = located(name, arguments)
    check_first_generation(load_config(directory), directory, "QWenLMHeadModel")
    if not isinstance(config, QWenConfig):
        dtypes: dict[str, Any] = {name: arguments.pop(name) for name in ("dtype", "torch_dtype") if name in arguments}
        config, arguments = QWenConfig.from_pretrained(directory, return_unused_kwargs=True, **arguments)
        arguments |= dtypes  # the configuration would keep them
    dtype = requested_dtype(config, arguments)
    arguments = checked_arguments(arguments, config)
    opened = open_checkpoint(directory)
    config.check_sizes(opened.config)
    if opened.gptq is not None:
        arguments.setdefault("offload_buffers", True)  # quantised weights are buffers
    on_cpu = _is_on_cpu(arguments.get("device_map"))
    settings = choose_settings(
        opened.checkpoint, opened.config, opened.gptq, dtype=dtype, device=torch.device("cpu"), head="exact"
    )
    held = list(held_tensors(opened.checkpoint, opened.layout, settings))
    streams = on_cpu and not fits_memory(weights_bytes(held), settings.device)
    check_values(opened.checkpoint, opened.layout)
    weights = _weights(opened, settings, held, on_cpu)
    if streams and not all(tensor.is_in_file or weights.is_mapped(tensor.name) for tensor in held):
        raise memory_error(directory, weights_bytes(held), settings.device)
    model, info = super(model_class, model_class).from_pretrained(
        None, config=config, state_dict=_state(opened, weights), dtype=settings.dtype, output_loading_info=True,
        file_leaves=_leaves(opened), place=str(directory), **arguments,
    )  # fmt: skip
    _settle(model, opened, weights, streams)
    for one in (model, model.config):
        one.name_or_path = str(name)
    model.generation_config = generation_config_of(directory, model) if generation_config is None else generation_config
    if path := adapter.pop("_adapter_model_path", None):
        model.load_adapter(str(path))
    return (model, info) if wants_info else model


def _is_on_cpu(device_map: Any) -> bool:
    """Whether a device_map, before it is inferred, leaves everything on the CPU."""
    if device_map is None:
        return torch.get_default_device().type == "cpu"
    if isinstance(device_map, Mapping):
        return {str(place) for place in device_map.values()} == {"cpu"}
    if isinstance(device_map, str) and device_map not in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device(device_map).type == "cpu"
    return not isinstance(device_map, int | torch.device) and not torch.accelerator.is_available()


def _weights(opened: OpenCheckpoint, settings: LoadSettings, held: list[HeldTensor], on_cpu: bool) -> Weights:
    """The weights for the CPU, from the weight cache where that helps; on other devices, the file's."""
    if on_cpu and settings.dtype == NATIVE_DTYPE:
        return weights_of(opened.checkpoint, opened.layout, settings, held)
    return Weights(opened.checkpoint, settings)


def _leaves(opened: OpenCheckpoint) -> dict[str, list[str]]:
    """The tensors of each linear in the file, by its published name."""
    wanted = ("weight", "bias") if opened.gptq is None else LEAVES
    names = [spec.disk_name for spec in opened.layout if spec.kind == "linear"]
    return {name: [leaf for leaf in wanted if f"{name}.{leaf}" in opened.checkpoint] for name in names}


def _state(opened: OpenCheckpoint, weights: Weights) -> dict[str, Tensor]:
    """All tensors by their published names: floats in the compute dtype, quantised weights as the file has them."""
    state: dict[str, Tensor] = {}
    leaves = _leaves(opened)
    for spec in opened.layout:
        name = spec.disk_name
        if spec.kind == "linear" and opened.gptq is not None:
            state |= {f"{name}.{leaf}": opened.checkpoint.read(f"{name}.{leaf}") for leaf in leaves[name]}
        else:
            state |= {f"{name}.{leaf}": weights.dense(spec, leaf) for leaf in leaves.get(name, ["weight"])}
    return state


def _settle(model: Any, opened: OpenCheckpoint, weights: Weights, streams: bool) -> None:
    """Gives quantised linears on the CPU their repacked weights, and streams them if they do not fit."""
    for spec in opened.layout:
        linear = model.get_submodule(spec.disk_name)
        if isinstance(linear, GptqLinear):
            linear.gptq = opened.gptq or linear.gptq  # with the version of its zeros
            if linear.qweight.device.type == "cpu" and weights.settings.dtype == NATIVE_DTYPE:
                linear.prepared = weights.quantized(spec)
            elif not linear.qweight.is_meta:
                _ = linear.weight  # checks it
    if streams:
        network = model.transformer
        network.layers = streamed_layers(network.layers, model.lm_head, torch.device("cpu"), opened.checkpoint)


def generation_config_of(directory: Path, model: Any) -> GenerationConfig:
    """The settings of generation_config.json; without one, those of transformers."""
    if has_file(directory / "generation_config.json"):
        return GenerationConfig.from_pretrained(directory)
    return model.generation_config
