"""LoRA of PEFT beside a GPTQ linear: what PEFT puts in the linear's place. Imported once PEFT is.

y = base(x) + s B A dropout(x),  s = alpha / r          A and B in fp32 as PEFT makes them, the packed weight frozen

With g = dL/dy:  dL/dx = g W + s g B A,  dL/dA = s (g B)^T x,  dL/dB = s g^T (A x)

A linear with one plain adapter is one operation, which converts each matrix between bf16 and fp32 once and keeps x as
it is; PEFT's own sequence of operations, for everything else, takes three times as many passes over [T, N] matrices.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from qwartet.errors import SettingError
from qwartet.hf.backend import is_native
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

    def forward(self, x: Tensor, *args: Any, **arguments: Any) -> Tensor:
        name = self._only_adapter()
        if args or arguments or name is None or not is_native(x) or "_hf_hook" in self.base_layer.__dict__:
            return super().forward(x, *args, **arguments)  # type: ignore[no-any-return]
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        y: Tensor = _Adapted.apply(x, a, b, self.scaling[name], self.base_layer)  # type: ignore[no-untyped-call]
        return y

    def _only_adapter(self) -> str | None:
        """The active adapter, if it is the only one and plain: fp32, without dropout and bias."""
        names = [] if self.disable_adapters else [one for one in self.active_adapters if one in self.lora_A]
        if len(names) != 1:
            return None
        dropout, a, b = (modules[names[0]] for modules in (self.lora_dropout, self.lora_A, self.lora_B))
        is_plain = type(a) is type(b) is nn.Linear and b.bias is None and a.weight.dtype == b.weight.dtype
        drops = dropout.training and not isinstance(dropout, nn.Identity)
        return names[0] if is_plain and a.weight.dtype == torch.float32 and not drops else None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """SettingError: the sum has no GPTQ codes."""
        raise merge_error()


class _Adapted(Function):
    """x [..., K] in bf16, a [r, K] and b [N, r] in fp32 -> [..., N] in bf16, summed in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, base: GptqLinear) -> Tensor:
        ctx.scale, ctx.base = scale, base
        reduced = F.linear(x.float(), a).mul_(scale)
        ctx.save_for_backward(x, a, b, reduced)
        return F.linear(reduced, b).add_(base(x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, a, b, reduced = ctx.saved_tensors
        for_x, for_a, for_b = ctx.needs_input_grad[:3]
        grad = grad_y.flatten(0, -2).float()
        grad_reduced = (grad @ b).mul_(ctx.scale)
        grad_a = grad_reduced.t() @ x.flatten(0, -2).float() if for_a else None
        grad_b = grad.t() @ reduced.flatten(0, -2) if for_b else None
        if not for_x:
            return None, grad_a, grad_b, None, None
        base = ctx.base
        grad_x = base.backend.quantized_linear_gradient(grad_y.flatten(0, -2), base.prepared, torch.float32)
        grad_x.addmm_(grad_reduced, a)
        return grad_x.to(x.dtype).view_as(x), grad_a, grad_b, None, None
