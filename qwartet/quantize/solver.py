"""GPTQ: rounds a matrix column by column and moves each column's error into the columns not yet rounded.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022), algorithm 1, with the choices of AutoGPTQ 0.7.1 that made the published checkpoints. Two options
go beyond it, both without effect on the format or on the speed of the result:

    act_group_aware    the inputs of a group, and the groups, are taken by descending activation; the groups themselves
                       stay as they are (GPTQModel's name and idea)
    search_scales      each scale is multiplied by the factor that rounds the group best (quantizer.py)

The work is done transposed, [K, N], which is how the file stores codes. Errors are propagated lazily: a half of the
inputs is finished first, then one product moves all its errors into the other half, and so on inside the halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwartet.errors import SettingError
from qwartet.kernels.gptq_ops import REFERENCE_OPS, GptqOps
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.hessian import mirror_
from qwartet.quantize.quantizer import SHRINKS, fit_group

BLOCK_ROWS = 128  # inputs that are rounded between two products


@dataclass(frozen=True)
class SolverSettings:
    """How matrices are quantised; named as in quantize_config.json, except for search_scales."""

    bits: int
    group_size: int  # -1: all inputs
    sym: bool
    desc_act: bool = False
    damp_percent: float = 0.01
    act_group_aware: bool = False
    search_scales: bool = False
    block_rows: int = BLOCK_ROWS

    def __post_init__(self) -> None:
        if not 0 < self.damp_percent < 1:
            raise SettingError(f"damp_percent is {self.damp_percent}; it must be between 0 and 1")
        if self.desc_act and self.act_group_aware:
            raise SettingError("desc_act and act_group_aware are two orders of the same inputs; choose one of them")


@dataclass(frozen=True)
class SolverResult:
    """A quantised linear without its bias, and how well the solver did."""

    weight: QuantizedWeight
    loss: float  # squared output error of a calibration token, summed over the outputs; damping included
    damp_percent: float  # as used: more than requested when the Hessian was nearly singular


class SolverError(SettingError):
    """A matrix that cannot be quantised."""

    def __init__(self, reason: str, *, matrix: str) -> None:
        super().__init__(reason)
        self.matrix = matrix


def gptq_quantize(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int,
    group_size: int,
    sym: bool,
    desc_act: bool,
    damp_percent: float = 0.01,
    blocksize: int = BLOCK_ROWS,
    act_group_aware: bool = False,
    search_scales: bool = False,
    ops: GptqOps = REFERENCE_OPS,
) -> SolverResult:
    """Quantises weight [N, K] for inputs whose Hessian is H = (2 / n) sum x x^T, fp32 [K, K]; changes neither.

    group_size -1 means K. With desc_act the inputs are taken by descending diag(H), and g_idx gives the group of each.
    An input that was never active (H_kk = 0) gets weight 0. SettingError for values that are not finite, a Hessian of
    zeros, and one that no damping below 1 makes positive definite.
    """
    settings = SolverSettings(
        bits, group_size, sym, desc_act, damp_percent, act_group_aware, search_scales, block_rows=blocksize
    )
    return solve({"": weight}, hessian.to(torch.float32, copy=True), settings, ops)[""]


def solve(
    weights: Mapping[str, Tensor], hessian: Tensor, settings: SolverSettings, ops: GptqOps = REFERENCE_OPS
) -> dict[str, SolverResult]:
    """Quantises several matrices [N, K] of the same inputs, as if each had been solved alone; overwrites the Hessian.

    The errors of gptq_quantize, as a SolverError with the name of the matrix.
    """
    names = list(weights)
    for name, weight in weights.items():
        _check_weight(name, weight, hessian, settings.bits)
    _check_hessian(names[0], hessian)
    W = _transposed(weights.values())
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    W[dead] = 0
    group_size = _group_size(len(W), settings)
    order = _order(hessian.diagonal(), group_size, settings)
    if order is not None:
        W = W[order]
        hessian = hessian.index_select(0, order).index_select(1, order)
    damp_percent = _factor_(names[0], hessian, settings.damp_percent, ops)
    codes, scales, zeros = _round(W, hessian, group_size, settings, ops)
    losses = W.square_().sum(0) / 2
    del W
    g_idx = None
    if order is not None:
        position = order.argsort()  # of each input in the order of solving
        codes = codes[position]
        group = position // group_size
        if settings.desc_act:
            g_idx = group.to(torch.int32)
        else:  # the groups are those of the file, taken in another order
            scales, zeros = (values[group[::group_size]] for values in (scales, zeros))
    packed = _packed(weights, codes, scales, zeros, group_size, settings, g_idx)
    of_parts = losses.split([len(weight) for weight in weights.values()])
    return {
        name: SolverResult(packed[name], loss.sum().item(), damp_percent)
        for name, loss in zip(names, of_parts, strict=True)
    }


def round_to_nearest(
    weights: Mapping[str, Tensor], hessian: Tensor, settings: SolverSettings, ops: GptqOps = REFERENCE_OPS
) -> dict[str, SolverResult]:
    """Rounds the matrices [N, K] without moving errors; their loss is for inputs with this Hessian, which is kept.

    The errors of solve, but any Hessian will do.
    """
    for name, weight in weights.items():
        _check_weight(name, weight, hessian, settings.bits)
    W = _transposed(weights.values())
    group_size = _group_size(len(W), settings)
    codes, scales, zeros = _round(W, None, group_size, settings, ops)
    del W
    results = {}
    for name, packed in _packed(weights, codes, scales, zeros, group_size, settings).items():
        error = packed.dequantize() - weights[name].float()
        loss = (error @ hessian).mul_(error).sum().item() / 2
        results[name] = SolverResult(packed, loss, 0.0)
    return results


def _group_size(in_features: int, settings: SolverSettings) -> int:
    return in_features if settings.group_size == -1 else min(settings.group_size, in_features)


def _packed(
    weights: Mapping[str, Tensor],
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    group_size: int,
    settings: SolverSettings,
    g_idx: Tensor | None = None,
) -> dict[str, QuantizedWeight]:
    """The matrices that the columns of codes [K, sum of N] belong to, as files hold them."""
    results, end = {}, 0
    for name, weight in weights.items():
        rows = slice(end, end := end + len(weight))
        if not scales[:, rows].half().isfinite().all():
            reason = f"weights reach {weight.abs().max():g}: a scale does not fit fp16, as the format requires"
            raise SolverError(reason, matrix=name)
        results[name] = QuantizedWeight.from_codes(
            codes[:, rows], scales[:, rows], zeros[:, rows],
            bits=settings.bits, group_size=group_size, sym=settings.sym,
            g_idx=None if g_idx is None else g_idx.clone(),  # files hold one for each
        )  # fmt: skip
    return results


def _transposed(weights: Iterable[Tensor]) -> Tensor:
    """The matrices [N, K] as one, transposed: fp32 [K, sum of N]."""
    matrices = list(weights)
    W = torch.empty(matrices[0].shape[1], sum(map(len, matrices)), device=matrices[0].device)
    for part, matrix in zip(W.split([len(matrix) for matrix in matrices], dim=1), matrices, strict=True):
        part.copy_(matrix.detach().t())
    return W


def _order(activation: Tensor, group_size: int, settings: SolverSettings) -> Tensor | None:
    """The order in which inputs are taken, by their activation [K]; None: as they are."""
    if settings.desc_act:
        return activation.argsort(descending=True, stable=True)
    if not settings.act_group_aware:
        return None
    whole = len(activation) // group_size * group_size  # a last group that is smaller stays at the end
    groups = activation[:whole].view(-1, group_size)
    inside = groups.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(0, whole, group_size, device=activation.device)
    of_groups = groups.amax(1).argsort(descending=True, stable=True)
    rest = whole + activation[whole:].argsort(descending=True, stable=True)
    return torch.cat([(first[:, None] + inside)[of_groups].flatten(), rest])


def _round(
    W: Tensor, factor: Tensor | None, group_size: int, settings: SolverSettings, ops: GptqOps
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8 [K, N], scales fp32 [G, N], zeros uint8 [G, N]; W [K, N] becomes the errors as the loss has them.

    Without a factor errors stay where they are.
    """
    codes = torch.empty_like(W, dtype=torch.uint8)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []
    plain = torch.eye(min(settings.block_rows, len(W)), device=W.device)
    importance = torch.ones(len(W), device=W.device) if factor is None else factor.diagonal().reciprocal().square()

    def propagate(done: slice, rest: slice) -> None:
        if factor is not None:
            ops.subtract_product_(W[rest], factor[done, rest], W[done])

    def round_block(block: slice) -> None:
        size = block.stop - block.start
        diagonal = plain[:size, :size] if factor is None else factor[block, block]
        ops.round_rows_(W[block], diagonal, scales[-1], zeros[-1], settings.bits, codes[block])

    def round_group(group: slice) -> None:
        # The group is fitted to the weights as the errors so far have left them, not to the original ones.
        scale, zero = fit_group(W[group], bits=settings.bits, sym=settings.sym)
        if settings.search_scales:
            shrinks = torch.tensor(SHRINKS, device=W.device)
            scale = ops.search_scale(W[group], importance[group], shrinks, scale, zero, settings.bits)
        scales.append(scale)
        zeros.append(zero)
        _halves(list(_pieces(group, settings.block_rows)), round_block, propagate)

    _halves(list(_pieces(slice(0, len(W)), group_size)), round_group, propagate)
    return codes, torch.stack(scales), torch.stack(zeros).to(torch.uint8)


def _pieces(rows: slice, size: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _halves(
    pieces: Sequence[slice], finish: Callable[[slice], None], propagate: Callable[[slice, slice], None]
) -> None:
    """Finishes neighbouring pieces in order; before each, the errors of all earlier ones have been propagated to it."""
    if len(pieces) == 1:
        finish(pieces[0])
        return
    middle = len(pieces) // 2
    _halves(pieces[:middle], finish, propagate)
    propagate(slice(pieces[0].start, pieces[middle].start), slice(pieces[middle].start, pieces[-1].stop))
    _halves(pieces[middle:], finish, propagate)


def _factor_(name: str, H: Tensor, damp_percent: float, ops: GptqOps) -> float:
    """The upper triangle of H becomes F with F^T F = (H + damp I)^-1; returns the damp_percent that it took."""
    diagonal = H.diagonal().clone()
    mean = diagonal.mean()
    while damp_percent < 1:
        H.diagonal().copy_(diagonal + damp_percent * mean)
        if ops.inverse_factor_(H):
            return damp_percent
        mirror_(H, to_upper=True)
        damp_percent *= 2
    reason = "the Hessian is not positive definite at any damp_percent below 1; calibrate on more text"
    raise SolverError(reason, matrix=name)


def check_shape(shape: Sequence[int], bits: int) -> None:
    """SettingError for a matrix whose codes do not fill whole int32 words."""
    lanes = 32 // bits
    if any(size % lanes for size in shape):
        size = " x ".join(map(str, shape))
        raise SettingError(f"a {size} matrix cannot be packed: at {bits} bits sizes must be multiples of {lanes}")


def _check_weight(name: str, weight: Tensor, hessian: Tensor, bits: int) -> None:
    assert hessian.shape == (weight.shape[1],) * 2, (weight.shape, hessian.shape)
    check_shape(weight.shape, bits)
    if bad := int((~weight.isfinite()).sum()):
        reason = f"{bad} of {weight.numel()} weights are NaN or infinite; they cannot be quantised"
        raise SolverError(reason, matrix=name)


def _check_hessian(name: str, hessian: Tensor) -> None:
    if not all(rows.isfinite().all() for rows in hessian.split(1024)):
        reason = "the Hessian has NaN or infinite values; run the calibration in bf16 or fp32"
        raise SolverError(reason, matrix=name)
    if not hessian.diagonal().any():
        reason = "the Hessian is zero: all inputs of this linear were zero during calibration"
        raise SolverError(reason, matrix=name)
