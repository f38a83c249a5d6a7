"""Arguments of the original's from_pretrained that have no effect here, and those that are rejected."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from qwartet.errors import SettingError
from qwartet.hub.location import LOCATION_ARGUMENTS
from qwartet.quant_format.argument import check_same_bits

_OWN = (
    "device_map", "trust_remote_code", "bf16", "fp16", "fp32", "torch_dtype", "use_flash_attn",
    "use_cache_quantization", "use_cache_kernel",
)  # fmt: skip
TOKEN_IDS = ("pad_token_id", "eos_token_id", "bos_token_id")  # they go into the config, as published
# How weights are loaded and which kernels run: here loading is lazy, and the kernels are our own.
_WITHOUT_EFFECT = (
    "low_cpu_mem_usage", "use_safetensors", "attn_implementation", "use_flash_attention_2", "max_memory",
    "offload_folder", "offload_state_dict", "offload_buffers", "use_cache", "return_dict", "_fast_init",
    "ignore_mismatched_sizes", "softmax_in_fp32",
)  # fmt: skip
# They would load other weights or return something else: the neutral values, and what to do instead.
_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "load_in_8bit": ((None, False), "use an -Int8 checkpoint, or make one with `qwartet quantize`"),
    "load_in_4bit": ((None, False), "use an -Int4 checkpoint, or make one with `qwartet quantize`"),
    "config": ((None,), "change config.json in a copy of the directory"),
    "state_dict": ((None,), "pass a directory with the weights"),
    "variant": ((None,), "pass a directory with the weights"),
    "from_tf": ((None, False), "pass a directory with safetensors"),
    "from_flax": ((None, False), "pass a directory with safetensors"),
    "output_loading_info": ((None, False), "see `qwartet inspect`"),
}
# Of AutoGPTQ's from_quantized: kernels and file names.
AUTO_GPTQ_ARGUMENTS = (
    "use_triton", "use_cuda_fp16", "use_marlin", "use_qigen", "use_tritonv2", "disable_exllama", "disable_exllamav2",
    "inject_fused_attention", "inject_fused_mlp", "warmup_triton", "trainable", "model_basename", "quantize_config",
)  # fmt: skip


def check_model_arguments(arguments: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """SettingError for an unknown argument, or an unsupported one that would change answers.

    A key of config.json may be passed with the value that it has there.
    """
    for name, value in arguments.items():
        if name in _WITHOUT_EFFECT or (name in TOKEN_IDS and value is None):
            continue
        if name in config and config[name] == value and name != "quantization_config":
            continue
        if name == "quantization_config":
            check_same_bits(value, config.get("quantization_config"))
        elif name in _REFUSED:
            neutral, hint = _REFUSED[name]
            if value not in neutral:
                raise SettingError(f"{name}={value!r:.60} is not supported; {hint}", param=name)
        elif name in config:
            raise SettingError(
                f"{name} is {config[name]!r:.60} in config.json, and {value!r:.60} as an argument, which is not "
                "supported; change config.json in a copy of the directory",
                param=name,
            )
        else:
            known = [*_OWN, *TOKEN_IDS, *LOCATION_ARGUMENTS, *_WITHOUT_EFFECT]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known arguments: {', '.join(known)}"
            raise SettingError(f"from_pretrained has no argument {name!r}; {hint}", param=name)
