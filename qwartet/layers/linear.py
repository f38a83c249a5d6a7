"""y = x W^T + b, for a dense weight and for a GPTQ weight behind a kernel."""

from __future__ import annotations

from torch import Tensor, nn

from qwartet.kernels.backend import REFERENCE, Backend, PreparedWeight
from qwartet.kernels.low_rank import PreparedAdapters, RowAdapters


class LinearAdapters(nn.Module):
    """The LoRA adapters beside a linear, in the layout of its backend."""

    def __init__(self, prepared: PreparedAdapters) -> None:
        super().__init__()
        self.prepared = prepared


def apply(linear: nn.Module, x: Tensor, adapter_index: Tensor | None) -> Tensor:
    """x [T, K] through a linear and, where there is an index [T] of adapters, through these."""
    y: Tensor = linear(x) if adapter_index is None else linear(x, adapter_index)
    return y


class Linear(nn.Linear):
    """Dense linear layer; weight [N, K], bias [N] or None. Libraries that adapt torch's linears know it as one."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, backend: Backend = REFERENCE
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.backend = backend
        self.adapters: LinearAdapters | None
        self.register_module("adapters", None)

    def reset_parameters(self) -> None:
        """Leaves them uninitialised: a checkpoint, or QwenModel.initialize, fills them."""

    def forward(self, x: Tensor, adapter_index: Tensor | None = None) -> Tensor:
        if self.adapters is not None and adapter_index is not None:
            rows = RowAdapters(self.adapters.prepared, adapter_index)
            return self.backend.adapted_linear(x, (self.weight, self.bias), rows)
        return self.backend.dense_linear(x, self.weight, self.bias)


class QuantizedLinear(nn.Module):
    """GPTQ linear layer: a weight in its kernel's layout."""

    def __init__(self, prepared: PreparedWeight, backend: Backend) -> None:
        """`prepared` is what the backend made of a QuantizedWeight."""
        super().__init__()
        self.in_features, self.out_features = prepared.in_features, prepared.out_features
        self.backend = backend
        self.prepared = prepared
        self.adapters: LinearAdapters | None
        self.register_module("adapters", None)

    def forward(self, x: Tensor, adapter_index: Tensor | None = None) -> Tensor:
        if self.adapters is not None and adapter_index is not None:
            rows = RowAdapters(self.adapters.prepared, adapter_index)
            return self.backend.adapted_linear(x, self.prepared, rows)
        return self.backend.quantized_linear(x, self.prepared)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.backend.names['quantized linear']}"
