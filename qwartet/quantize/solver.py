"""GPTQ: rounds a matrix column by column and moves each column's error into the columns not yet rounded.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022), algorithm 1, with the choices of AutoGPTQ 0.7.1 that made the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwartet.errors import SettingError
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.quantizer import dequantize, fit_group, quantize


@dataclass(frozen=True)
class SolverResult:
    """A quantised linear without its bias, and how well the solver did."""

    weight: QuantizedWeight
    loss: float  # squared output error of a calibration token, summed over the outputs; damping included
    damp_percent: float  # as used: more than requested when the Hessian was nearly singular


def gptq_quantize(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int,
    group_size: int,
    sym: bool,
    desc_act: bool,
    damp_percent: float = 0.01,
    blocksize: int = 128,
) -> SolverResult:
    """Quantises weight [N, K] for inputs whose Hessian is H = (2 / n) sum x x^T, fp32 [K, K]; changes neither.

    group_size -1 means K. With desc_act the inputs are taken by descending diag(H), and g_idx gives the group of each.
    An input that was never active (H_kk = 0) gets weight 0. SettingError for values that are not finite, a Hessian of
    zeros, and one that no damping below 1 makes positive definite.
    """
    _check_arguments(weight, hessian, bits, damp_percent)
    # The work is done transposed, [K, N], which is how the file stores codes and makes each step read one row.
    W = weight.detach().t().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    H = hessian.to(torch.float32, copy=True)
    in_features = len(W)
    group_size = in_features if group_size == -1 else min(group_size, in_features)

    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    W[dead] = 0
    order = None
    if desc_act:
        order = H.diagonal().argsort(descending=True, stable=True)
        W, H = W[order], H[order][:, order]

    Hinv, damp_percent = _inverse_factor(H, damp_percent)
    del H
    codes, scales, zeros, loss = _solve(W, Hinv, bits, group_size, sym, blocksize)

    g_idx = None
    if order is not None:
        position = order.argsort()  # of each input in the order of solving
        codes, g_idx = codes[position], (position // group_size).to(torch.int32)
    if not scales.half().isfinite().all():
        raise SettingError(f"weights reach {weight.abs().max():g}: a scale does not fit fp16, as the format requires")
    packed = QuantizedWeight.from_codes(codes, scales, zeros, bits=bits, group_size=group_size, sym=sym, g_idx=g_idx)
    return SolverResult(packed, loss, damp_percent)


def _solve(
    W: Tensor, Hinv: Tensor, bits: int, group_size: int, sym: bool, blocksize: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Codes uint8 [K, N], scales fp32 [G, N], zeros uint8 [G, N], loss; overwrites W [K, N]."""
    codes = torch.empty_like(W, dtype=torch.uint8)
    scales, zeros = [], []
    loss = torch.zeros((), device=W.device)
    for start, stop in _blocks(len(W), group_size, blocksize):
        if start % group_size == 0:
            # The group is fitted to the weights as the errors so far have left them, not to the original ones.
            scale, zero = fit_group(W[start : start + group_size], bits=bits, sym=sym)
            scales.append(scale)
            zeros.append(zero)
        Err = torch.empty_like(W[start:stop])
        for i in range(start, stop):
            q = quantize(W[i], scale, zero, bits=bits)
            codes[i] = q
            err = (W[i] - dequantize(q, scale, zero)) / Hinv[i, i]
            W[i + 1 : stop].addr_(Hinv[i, i + 1 : stop], err, alpha=-1)
            Err[i - start] = err
        # One product propagates the block's errors to the rest of the matrix, instead of a step for each.
        W[stop:].addmm_(Hinv[start:stop, stop:].t(), Err, alpha=-1)
        loss += Err.square().sum() / 2
    return codes, torch.stack(scales), torch.stack(zeros).to(torch.uint8), loss.item()


def _blocks(in_features: int, group_size: int, blocksize: int) -> Iterator[tuple[int, int]]:
    """Cuts the inputs into blocks of at most blocksize; a group starts only where a block starts."""
    for group in range(0, in_features, group_size):
        end = min(group + group_size, in_features)
        for start in range(group, end, blocksize):
            yield start, min(start + blocksize, end)


def _inverse_factor(H: Tensor, damp_percent: float) -> tuple[Tensor, float]:
    """The upper triangular Hinv with Hinv^T Hinv = (H + damp I)^-1, and the damp_percent that it took."""
    mean = H.diagonal().mean()
    while damp_percent < 1:
        # With rows and columns reversed, H = L L^T becomes H = M M^T with M upper triangular, and Hinv = M^-1:
        # one factorisation and one triangular inverse, where inverting H first would take two and lose digits.
        reversed_H = H.flip(0, 1)
        reversed_H.diagonal().add_(damp_percent * mean)
        L, failed_at = torch.linalg.cholesky_ex(reversed_H)
        if not failed_at:
            M = L.flip(0, 1)
            return torch.linalg.solve_triangular(M, torch.eye(len(M), device=M.device), upper=True), damp_percent
        damp_percent *= 2
    raise SettingError("the Hessian is not positive definite at any damp_percent below 1; calibrate on more text")


def check_shape(shape: Sequence[int], bits: int) -> None:
    """SettingError for a matrix whose codes do not fill whole int32 words."""
    lanes = 32 // bits
    if any(size % lanes for size in shape):
        size = " x ".join(map(str, shape))
        raise SettingError(f"a {size} matrix cannot be packed: at {bits} bits sizes must be multiples of {lanes}")


def _check_arguments(weight: Tensor, hessian: Tensor, bits: int, damp_percent: float) -> None:
    assert hessian.shape == (weight.shape[1],) * 2, (weight.shape, hessian.shape)
    check_shape(weight.shape, bits)
    if not 0 < damp_percent < 1:
        raise SettingError(f"damp_percent is {damp_percent}; it must be between 0 and 1")
    if bad := int((~weight.isfinite()).sum()):
        raise SettingError(f"{bad} of {weight.numel()} weights are NaN or infinite; they cannot be quantised")
    if not hessian.isfinite().all():
        raise SettingError("the Hessian has NaN or infinite values; run the calibration in bf16 or fp32")
    if not hessian.diagonal().any():
        raise SettingError("the Hessian is zero: all inputs of this linear were zero during calibration")
