"""LoRA of PEFT beside a GPTQ linear: what PEFT puts in the linear's place. Imported once PEFT is.

y = base(x) + (alpha / r) B A dropout(x)          A and B in fp32 as PEFT makes them, the packed weight frozen
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear

from qwartet.errors import SettingError
from qwartet.hf.gptq_linear import GptqLinear

_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")  # those that do not change the base weight


def merge_error() -> SettingError:
    """Why an adapter cannot be merged into this model, and what to do."""
    return SettingError(
        "an adapter cannot be merged into GPTQ weights; merge it into the bf16 model with `qwartet merge`, then "
        "quantize the result with `qwartet quantize`"
    )


class GptqLoraLinear(Linear):
    """A GPTQ linear and its adapters; they have PEFT's names, and its file format."""

    @property
    def lora_variants(self) -> dict[tuple[str, ...], None]:
        """Plain LoRA: the others compute with the dense weight."""
        return {(): None}

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: Any, **arguments: Any) -> None:
        """Adds an adapter; SettingError for a way to initialise it that changes the base weight."""
        if config.init_lora_weights not in _INITIALISATIONS:
            raise SettingError(
                f"init_lora_weights={config.init_lora_weights!r} changes the base weight, and GPTQ weights are fixed; "
                "leave it out"
            )
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **arguments)

    def _get_in_out_features(self, module: GptqLinear) -> tuple[int, int]:
        return module.in_features, module.out_features

    def _get_base_layer_device_and_dtype(self, base_layer: GptqLinear) -> tuple[torch.device, None]:
        return base_layer.qweight.device, None  # an adapter follows the device, not the codes' dtype

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """SettingError: the sum has no GPTQ codes."""
        raise merge_error()
