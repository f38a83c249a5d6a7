"""A GPTQ linear in transformers: the tensors of the file as buffers, and beside them what the kernels read.

The buffers have the published names (qweight, qzeros, scales, g_idx, bias), so that state_dict, save_pretrained,
device maps and offloading see a linear as it is on disk. On a CPU they stay mapped from the file and take no memory;
the native kernels read a repacked copy, which a weight cache may hold too, and compute the gradient of the input from
it. Where no fast kernel suits, the references work on the buffers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qwartet.hf.backend import ChoosingBackend, is_native
from qwartet.kernels.backend import REFERENCE, PreparedWeight
from qwartet.layers.linear import QuantizedLinear
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight

LEAVES = ("qweight", "qzeros", "scales", "g_idx", "bias")
_FLOATS = ("scales", "bias")  # a change of the model's dtype must not round them


class GptqLinear(QuantizedLinear):
    """W of [N, K] behind its buffers; frozen, differentiable in its input."""

    qweight: Tensor
    scales: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        gptq: GptqConfig,
        backend: ChoosingBackend,
        *,
        name: str,
        place: str,
        leaves: tuple[str, ...] = LEAVES,
        file_dtype: torch.dtype = torch.float16,
    ) -> None:
        """Buffers of zeros; `leaves` are those that the file has, `file_dtype` is that of scales and bias.

        `name` and `place` are for errors.
        """
        nn.Module.__init__(self)
        self.register_module("adapters", None)
        self.in_features, self.out_features = in_features, out_features
        self.backend: ChoosingBackend = backend
        self.gptq, self.name, self.place = gptq, name, place
        self._weight: QuantizedWeight | None = None
        self._packed: PreparedWeight | None = None
        for leaf, shape in gptq.file_shapes(in_features, out_features).items():
            dtype = file_dtype if leaf in _FLOATS else torch.int32
            self.register_buffer(leaf, torch.zeros(shape, dtype=dtype) if leaf in leaves else None)

    @property
    def weight(self) -> QuantizedWeight:
        """The weight that the buffers hold, checked when they are first read; CheckpointError if they are wrong."""
        tensors = {leaf: tensor for leaf, tensor in self._buffers.items() if tensor is not None}
        if self._weight is None:
            self._weight = QuantizedWeight.from_tensors(tensors, self.gptq, name=self.name, path=self.place)
        known = self._weight
        if known.qweight is not tensors["qweight"]:  # moved, or offloaded and back
            g_idx = None if known.g_idx is None else tensors["g_idx"]
            bias, scales = tensors.get("bias"), tensors["scales"].half()
            self._weight = replace(
                known, qweight=tensors["qweight"], qzeros=tensors["qzeros"], scales=scales, g_idx=g_idx, bias=bias
            )
        return self._weight

    @property
    def prepared(self) -> PreparedWeight:
        """The weight in the layout of the fast kernels, repacked when it is first needed."""
        if self._packed is None:
            self._packed = self.backend.prepare(self.weight)
        return self._packed

    @prepared.setter
    def prepared(self, packed: PreparedWeight) -> None:
        self._packed = packed

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # adapters are PEFT's here
        is_offloaded = "_hf_hook" in self.__dict__  # by accelerate: a repacked copy would stay in memory
        if is_offloaded or not is_native(x):
            return REFERENCE.quantized_linear(x, self.weight)
        return self.backend.quantized_linear(x, self.prepared)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {leaf: self._buffers[leaf] for leaf in LEAVES}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for leaf in _FLOATS:
            old, new = before[leaf], self._buffers[leaf]
            if old is not None and new is not None and old.dtype != new.dtype:
                self._buffers[leaf] = torch.empty_like(old, device="meta") if new.is_meta else old.to(new.device)
        if self.qweight.device.type != "cpu":
            self._packed = None
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> GptqLinear:
        """A copy without the repacked weight, whose pointers cannot be copied; it is made again when needed."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_weight", "_packed")}
        copied.__dict__.update(copy.deepcopy(kept, memo), _weight=None, _packed=None)
        return copied

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.gptq.bits} bits"
