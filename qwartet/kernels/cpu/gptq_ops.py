"""The operations of quantising a checkpoint by the native library: fp32, on the CPU."""

from __future__ import annotations

from ctypes import byref, c_int32

import torch
from torch import Tensor

from qwartet.kernels.backend import REFERENCE, Backend
from qwartet.kernels.cpu.library import NativeLibrary
from qwartet.kernels.cpu.structures import check, pointer
from qwartet.kernels.gptq_ops import GptqOps


def product_(
    library: NativeLibrary,
    result: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    scale: float = 1.0,
    decay: float = 0.0,
    only_upper: bool = False,
) -> None:
    """result [M, N] = decay * result + scale * a b, fp32; a [M, K] and b [K, N] may have any strides.

    With decay 0 the old values are not read; `only_upper` leaves those below the diagonal as they are.
    """
    (M, K), N = a.shape, b.shape[1]
    for tensor, shape in ((result, (M, N)), (a, (M, K)), (b, (K, N))):
        found = (tensor.dtype, tuple(tensor.shape), tensor.device.type)
        assert found == (torch.float32, shape, "cpu"), (*found, "wanted", shape)
    assert result.stride(1) == 1 or N == 1, result.stride()
    if 0 in (M, N, K):
        result.mul_(decay) if decay else result.zero_()
        return
    library.call(
        "qw_product", pointer(a), *a.stride(), pointer(b), *b.stride(), M, N, K, scale, decay, pointer(result),
        max(result.stride(0), N), only_upper,
    )  # fmt: skip


class FloatBackend(Backend):
    """The references, with fp32 linears on the native library; without gradients."""

    def __init__(self, library: NativeLibrary) -> None:
        self.library = library

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = x.new_empty(len(rows), len(weight))
        if bias is not None:
            y.copy_(bias.expand_as(y))
        product_(self.library, y, rows, weight.t(), decay=0.0 if bias is None else 1.0)
        return y.view(*x.shape[:-1], len(weight))


class CpuGptqOps(GptqOps):
    """One library. Results do not depend on the number of threads, nor an output on the outputs beside it."""

    factor_copies = 1

    def __init__(self, library: NativeLibrary) -> None:
        self.library = library
        self.name = f"native {library.isa}"

    def backend(self, dtype: torch.dtype) -> Backend:
        return FloatBackend(self.library) if dtype == torch.float32 else REFERENCE

    def add_gram_(self, hessian: Tensor, x: Tensor, *, decay: float, scale: float) -> None:
        product_(self.library, hessian, x.t(), x, scale=scale, decay=decay, only_upper=True)

    def inverse_factor_(self, hessian: Tensor) -> bool:
        check(hessian, *hessian.shape, dtype=torch.float32)
        assert hessian.shape[0] == hessian.shape[1], hessian.shape
        is_definite = c_int32()
        self.library.call("qw_inverse_factor", pointer(hessian), len(hessian), byref(is_definite))
        return bool(is_definite)

    def round_rows_(
        self, weight: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, bits: int, codes: Tensor
    ) -> None:
        num_rows, num_outputs = weight.shape
        check(weight, num_rows, num_outputs, dtype=torch.float32)
        check(codes, num_rows, num_outputs, dtype=torch.uint8)
        for grid in (scale, zero):
            check(grid, num_outputs, dtype=torch.float32)
        assert factor.shape == (num_rows, num_rows) and factor.dtype == torch.float32, (factor.shape, factor.dtype)
        assert factor.device.type == "cpu" and factor.stride(1) == 1, (factor.device, factor.stride())
        self.library.call(
            "qw_round_rows", pointer(weight), num_rows, num_outputs, pointer(factor), max(factor.stride(0), num_rows),
            pointer(scale), pointer(zero), bits, pointer(codes),
        )  # fmt: skip

    def subtract_product_(self, rest: Tensor, factor: Tensor, errors: Tensor) -> None:
        product_(self.library, rest, factor.t(), errors, scale=-1.0, decay=1.0)

    def search_scale(
        self, weight: Tensor, importance: Tensor, shrinks: Tensor, scale: Tensor, zero: Tensor, bits: int
    ) -> Tensor:
        num_rows, num_outputs = weight.shape
        check(weight, num_rows, num_outputs, dtype=torch.float32)
        chosen, weights, factors = scale.clone(), importance.contiguous(), shrinks.contiguous()
        check(weights, num_rows, dtype=torch.float32)
        check(factors, len(shrinks), dtype=torch.float32)
        for grid in (chosen, zero):
            check(grid, num_outputs, dtype=torch.float32)
        self.library.call(
            "qw_search_scale", pointer(weight), num_rows, num_outputs, pointer(weights), pointer(factors), len(factors),
            bits, pointer(chosen), pointer(zero),
        )  # fmt: skip
        return chosen
