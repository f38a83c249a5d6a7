"""Int4 GEMV in Triton: a ladder of kernels for 1 to 16 tokens and a symmetric GPTQ weight with groups of 128.

    y[m, n] = sum_g scales[g, n] * sum_{k in g} x[m, k] * (q[k, n] - 8) + bias[n]

x bf16 [M, K], q 4 bits, scales fp16 [K / 128, N], bias fp16 [N] or none; sums in fp32; y bf16 [M, N], or fp32 where the
caller passes such an `out`. K is a multiple of 128, N of 8. `file_fma` and `tiles_fma` take M = 1, `tiles_dot` takes
M = 1..16 at the same cost.

What bounds it: bytes. A weight takes 4 bits and 1/128 of a scale, 0.516 bytes; x and y are thousands of times smaller.
At 3 TB/s and 1.75 GHz each of 132 multiprocessors must take 25 weights per cycle and can issue 128 operations, so
a kernel with more than 5 instructions per weight cannot reach the memory's speed. The ladder lowers that number.

Layout "file": qweight int32 [K / 8, N] as GPTQ stores it. Neighbours in memory are neighbours in N.

    bits 31   27   23   19   15   11   7    3  0
         | 8r+7 | 8r+6 | 8r+5 | 8r+4 | 8r+3 | 8r+2 | 8r+1 | 8r |                   k of each nibble of row r

Layout "tiles": words int32 [N / 64, K / 128, 1024], scales fp16 [N / 64, K / 128, 64]. A tile is 64 outputs (a panel)
by one group: a program reads one stream of 4 KB pieces. Word r of a column holds 8 of its group's 128 inputs:

    bits 31     27     23     19     15     11     7      3  0
         | 97+2r | 65+2r | 33+2r | 1+2r | 96+2r | 64+2r | 32+2r | 2r |             r = 0..15

so (word >> 4j) & 0x000F000F is the pair of inputs 32j + 2r and 32j + 2r + 1, one in each half. Within a tile the words
of column n and row r stand where thread (warp n / 16, lane 4 (n % 8) + r % 4) of 128 loads 16 bytes twice and then
holds what the tensor cores expect as the left operand of a 64 x 128 product: the tile goes from memory to registers
with no exchange between threads.

    bits of the index in a tile     9    8 7     6 5 4    3 2    1    0
                                    r/8  n/16    n%8      r%4    r/4  n/8          (r/4 and n/8 modulo 2)

N is padded to a multiple of 64 with weights of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwartet.quant_format.weight import QuantizedWeight

GROUP = 128  # inputs that share a scale
PANEL = 64  # outputs of a program
MAX_ROWS = 16  # tokens of a tensor-core product
MAX_SPLITS = 16  # programs that share the inputs of a panel

PAIR_MAGIC = 0x43004300  # two bf16 of 128: a nibble or-ed into the last bits gives 128 + q, exactly
HIGH_MAGIC = 0x43800000  # fp32 256: a nibble at bits 15-18 gives 256 + q
LOW_MAGIC = 0x41800000  # fp32 16: a nibble at bits 19-22 gives 16 + q
# The kernels get these as arguments, because an instruction takes one constant: with a magic number in a register,
# "and mask, or magic" is one instruction, and as a constant it would be two.

RUNTIME = ("num_octets", "M", "num_groups", "num_splits", "pair_magic", "high_magic", "low_magic")


@triton.jit
def _finish(total, n, m, out, bias, partials, counters, N, M, num_splits, HAS_BIAS: tl.constexpr):
    """Adds up the splits of a panel and stores it: `total` fp32 [outputs n, tokens m] is this program's share.

    The program that arrives last adds all shares in the order of the splits, so the result does not depend on which one
    that is. It leaves the panel's counter at 0 for the next launch.
    """
    inside = (n < N)[:, None] & (m < M)[None, :]
    at = m[None, :] * N + n[:, None]
    is_last = num_splits == 1
    if num_splits > 1:
        tl.store(partials + tl.program_id(1) * M * N + at, total, mask=inside)
        tl.debug_barrier()  # the whole program's share is stored before its arrival is counted
        counter = counters + tl.program_id(0)
        is_last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == num_splits - 1
        if is_last:
            total = tl.zeros_like(total)
            for split in tl.static_range(16):  # unrolled, so that all loads are on their way before the first sum
                place = split * M * N + at
                is_there = inside & (place < num_splits * M * N)
                total += tl.load(partials + place, mask=is_there, other=0.0, cache_modifier=".cg")
            tl.store(counter, 0)
    if is_last:
        if HAS_BIAS:
            total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
        tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=RUNTIME)
def file_fma_kernel(
    x, words, scales, bias, out, partials, counters, num_octets, M, num_groups, num_splits, HAS_BIAS: tl.constexpr
):
    """Layout "file", one program for 64 outputs and its share of K: shift, mask, subtract, convert, multiply-add."""
    N = num_octets * 8  # written this way, the compiler knows that rows begin at multiples of 8
    n = tl.program_id(0) * 64 + tl.arange(0, 64)
    row = tl.arange(0, 16)
    first = tl.program_id(1) * num_groups // num_splits
    last = (tl.program_id(1) + 1) * num_groups // num_splits
    total = tl.zeros((16, 64), tl.float32)
    for g in range(first, last):
        word = tl.load(words + (g * 16 + row)[:, None] * N + n[None, :], mask=(n < N)[None, :], other=0)
        scale = tl.load(scales + g * N + n, mask=n < N, other=0.0).to(tl.float32)
        part = tl.zeros((16, 64), tl.float32)
        for i in tl.static_range(8):
            x_i = tl.load(x + g * 128 + row * 8 + i).to(tl.float32)
            q = (((word >> (4 * i)) & 15) - 8).to(tl.float32)
            part = tl.fma(q, tl.broadcast_to(x_i[:, None], (16, 64)), part)
        total = tl.fma(part, tl.broadcast_to(scale[None, :], (16, 64)), total)
    y = tl.sum(total, 0)[:, None]
    _finish(y, n, tl.arange(0, 1), out, bias, partials, counters, N, M, num_splits, HAS_BIAS)


@triton.jit
def _tile(word):
    """The 1024 words of a tile in memory order -> [64 columns, 16 rows]: the picture in the head of this file."""
    word = tl.reshape(word, (2, 4, 8, 4, 2, 2))  # r/8, n/16, n%8, r%4, r/4, n/8
    return tl.reshape(tl.permute(word, (1, 5, 2, 0, 4, 3)), (64, 16))


@triton.jit(do_not_specialize=RUNTIME)
def tiles_fma_kernel(
    x,
    words,
    scales,
    bias,
    out,
    partials,
    counters,
    num_octets,
    M,
    num_groups,
    num_splits,
    high_magic,
    low_magic,
    HAS_BIAS: tl.constexpr,
):
    """Layout "tiles", one program for a panel and its share of K: nibbles become fp32 in place, then multiply-add.

    A nibble in the upper bits of a float's fraction already is a number, and needs no conversion. What the magic
    numbers add to q is subtracted from each word's sum of 8 products, before sums grow: the rounding of numbers 256
    times a weight's step costs a few 1e-6 of the result.
    """
    panel = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * num_groups // num_splits
    last = (tl.program_id(1) + 1) * num_groups // num_splits
    i, c, row = tl.arange(0, 1024), tl.arange(0, 64), tl.arange(0, 16)
    words += panel * num_groups * 1024 + i
    scales += panel * num_groups * 64 + c
    total = tl.zeros((64, 16), tl.float32)
    next_word = tl.load(words + first * 1024, eviction_policy="evict_first")
    next_scale = tl.load(scales + first * 64)
    for g in range(first, last):
        word, scale = _tile(next_word), next_scale.to(tl.float32)
        # The next tile is on its way while this one is worked on.
        left = last - g - 1
        next_word = tl.load(words + (g + 1) * 1024, mask=i < left * 1024, other=0, eviction_policy="evict_first")
        next_scale = tl.load(scales + (g + 1) * 64, mask=c < left * 64, other=0.0)
        part = tl.zeros((64, 16), tl.float32)
        offset = tl.zeros((16,), tl.float32)
        for j in tl.static_range(4):
            pair = tl.load(x + g * 64 + j * 16 + row)  # inputs 32j + 2r (low half) and 32j + 2r + 1, bf16
            x_0 = (pair << 16).to(tl.float32, bitcast=True)
            x_1 = (pair & -65536).to(tl.float32, bitcast=True)
            if j % 2 == 0:
                w_0 = ((word << (15 - 4 * j)) & 0x00078000) | high_magic  # 256 + q
                w_1 = ((word >> (4 * j + 1)) & 0x00078000) | high_magic
                offset += (x_0 + x_1) * -264.0  # 256 + 8
            else:
                w_0 = ((word << (19 - 4 * j)) & 0x00780000) | low_magic  # 16 + q
                w_1 = ((word >> (4 * j - 3)) & 0x00780000) | low_magic
                offset += (x_0 + x_1) * -24.0  # 16 + 8
            part = tl.fma(w_0.to(tl.float32, bitcast=True), tl.broadcast_to(x_0[None, :], (64, 16)), part)
            part = tl.fma(w_1.to(tl.float32, bitcast=True), tl.broadcast_to(x_1[None, :], (64, 16)), part)
        total = tl.fma(part + offset[None, :], tl.broadcast_to(scale[:, None], (64, 16)), total)
    n = tl.program_id(0) * 64 + c
    y = tl.sum(total, 1)[:, None]
    _finish(y, n, tl.arange(0, 1), out, bias, partials, counters, num_octets * 8, M, num_splits, HAS_BIAS)


@triton.jit(do_not_specialize=RUNTIME)
def tiles_dot_kernel(
    x,
    words,
    scales,
    bias,
    out,
    partials,
    counters,
    num_octets,
    M,
    num_groups,
    num_splits,
    pair_magic,
    HAS_BIAS: tl.constexpr,
    OPERAND: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Layout "tiles", one program for a panel and its share of K: pairs of nibbles become bf16, then tensor cores.

    A tile is the left operand [64, 128], from registers; x of the group is the right one, [128, 16], 0 beyond M.
    q - 8 is exact in bf16, so only the order of the fp32 sums differs from the reference.
    """
    panel = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * num_groups // num_splits
    last = (tl.program_id(1) + 1) * num_groups // num_splits
    c, m = tl.arange(0, 64), tl.arange(0, 16)
    words += panel * num_groups * 1024 + tl.arange(0, 1024)
    scales += panel * num_groups * 64 + c
    x += m[None, :] * (num_groups * 128) + tl.arange(0, 128)[:, None]
    total = tl.zeros((64, 16), tl.float32)
    next_scale = tl.load(scales + first * 64)
    for g in tl.range(first, last, num_stages=NUM_STAGES):
        word = _tile(tl.load(words + g * 1024, eviction_policy="evict_first"))
        x_g = tl.load(x + g * 128, mask=(m < M)[None, :], other=0.0)
        scale = next_scale.to(tl.float32)
        next_scale = tl.load(scales + (g + 1) * 64, mask=c < (last - g - 1) * 64, other=0.0)
        even = tl.join(word, word >> 8)  # [64, r, j / 2], j = 0 and 2
        pair = tl.join(even, even >> 4)  # [64, r, j / 2, j % 2]
        pair = (tl.permute(pair, (0, 2, 3, 1)) & 0x000F000F) | pair_magic  # [64, j / 2, j % 2, r] of 128 + q, twice
        w_0 = pair.to(tl.int16).to(tl.bfloat16, bitcast=True)
        w_1 = (pair >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
        w = tl.reshape(tl.join(w_0, w_1), (64, 128)).to(OPERAND) - 136.0  # q - 8 at k = 32j + 2r + half
        part = tl.dot(w, x_g.to(OPERAND))
        total = tl.fma(part, tl.broadcast_to(scale[:, None], (64, 16)), total)
    n = tl.program_id(0) * 64 + c
    _finish(total, n, m, out, bias, partials, counters, num_octets * 8, M, num_splits, HAS_BIAS)


@dataclass(frozen=True, eq=False)
class PreparedWeight:
    """A weight in one of the two layouts."""

    layout: Literal["file", "tiles"]
    words: Tensor  # int32, "file" [K / 8, N] or "tiles" [panels, K / 128, 1024]
    scales: Tensor  # fp16, "file" [K / 128, N] or "tiles" [panels, K / 128, 64]
    bias: Tensor | None  # fp16 [N]
    in_features: int
    out_features: int

    @property
    def nbytes(self) -> int:
        """Bytes that a kernel must read."""
        return sum(tensor.nbytes for tensor in (self.words, self.scales, self.bias) if tensor is not None)


def prepare_file(weight: QuantizedWeight) -> PreparedWeight:
    """Takes the tensors as they are. ValueError for a weight that the kernels do not support."""
    _check_weight(weight)
    shape = weight.in_features, weight.out_features
    return PreparedWeight("file", weight.qweight.contiguous(), weight.scales.contiguous(), weight.bias, *shape)


def prepare_tiles(weight: QuantizedWeight) -> PreparedWeight:
    """Repacks into tiles; it only moves nibbles. ValueError for a weight that the kernels do not support."""
    _check_weight(weight)
    G, N = weight.scales.shape
    padding = -N % PANEL
    codes = torch.nn.functional.pad(weight.codes(), (0, padding), value=8)
    scales = torch.nn.functional.pad(weight.scales, (0, padding))
    codes = codes.view(G, 4, 16, 2, N + padding)  # input of a group: j, r, half
    words = torch.zeros(G, 16, N + padding, dtype=torch.int32, device=codes.device)
    for j in range(4):
        for half in range(2):
            words |= codes[:, j, :, half].to(torch.int32) << (4 * j + 16 * half)
    # group, r/8, r/4, r%4, panel, n/16, n/8, n%8 -> panel, group, r/8, n/16, n%8, r%4, r/4, n/8
    tiles = words.view(G, 2, 2, 4, -1, 4, 2, 8).permute(4, 0, 1, 5, 7, 3, 2, 6).reshape(-1, G, 1024)
    panels = scales.view(G, -1, PANEL).transpose(0, 1).contiguous()
    return PreparedWeight("tiles", tiles, panels, weight.bias, weight.in_features, N)


@dataclass(frozen=True, eq=False)
class Workspace:
    """Where the splits of K store their shares; for one launch at a time, and reusable by the next."""

    num_splits: int
    partials: Tensor  # fp32 [num_splits, M, N]
    counters: Tensor  # int32 [panels], 0 between launches

    @classmethod
    def allocate(cls, M: int, N: int, num_splits: int, device: torch.device | str) -> Workspace:
        """ValueError if num_splits is not 1 to 16."""
        if not 1 <= num_splits <= MAX_SPLITS:
            raise ValueError(f"num_splits is {num_splits}; it must be 1 to {MAX_SPLITS}")
        partials = torch.empty(num_splits, M, N, dtype=torch.float32, device=device)
        return cls(num_splits, partials, torch.zeros(triton.cdiv(N, PANEL), dtype=torch.int32, device=device))


def file_fma(x: Tensor, weight: PreparedWeight, workspace: Workspace, out: Tensor | None = None) -> Tensor:
    """x bf16 [1, K] -> [1, N] from the file's own layout."""
    out = _check_call(x, weight, workspace, out, layout="file", max_rows=1)
    tensors, sizes, grid = _arguments(x, weight, workspace, out)
    file_fma_kernel[grid](*tensors, *sizes, HAS_BIAS=weight.bias is not None, num_warps=4)
    return out


def tiles_fma(x: Tensor, weight: PreparedWeight, workspace: Workspace, out: Tensor | None = None) -> Tensor:
    """x bf16 [1, K] -> [1, N] from tiles, without tensor cores."""
    out = _check_call(x, weight, workspace, out, layout="tiles", max_rows=1)
    (_, *tensors), sizes, grid = _arguments(x, weight, workspace, out)
    pairs = x.view(torch.int32)
    has_bias = weight.bias is not None
    tiles_fma_kernel[grid](pairs, *tensors, *sizes, HIGH_MAGIC, LOW_MAGIC, HAS_BIAS=has_bias, num_warps=4)
    return out


def tiles_dot(
    x: Tensor, weight: PreparedWeight, workspace: Workspace, out: Tensor | None = None, *, num_stages: int = 3
) -> Tensor:
    """x bf16 [M, K], M 1 to 16 -> [M, N] from tiles, on tensor cores; num_stages - 1 tiles are loaded ahead."""
    out = _check_call(x, weight, workspace, out, layout="tiles", max_rows=MAX_ROWS)
    tensors, sizes, grid = _arguments(x, weight, workspace, out)
    tiles_dot_kernel[grid](
        *tensors,
        *sizes,
        PAIR_MAGIC,
        HAS_BIAS=weight.bias is not None,
        # Triton's interpreter, which is what runs on the CPU, has no arithmetic on bf16; the values are the same.
        OPERAND=tl.bfloat16 if x.is_cuda else tl.float32,
        NUM_STAGES=num_stages,
        num_warps=4,
    )
    return out


@dataclass(frozen=True)
class Variant:
    """One rung of the ladder, as the check and the benchmark see it."""

    prepare: Callable[[QuantizedWeight], PreparedWeight]
    run: Callable[..., Tensor]
    max_rows: int


VARIANTS = {
    "file_fma": Variant(prepare_file, file_fma, 1),
    "tiles_fma": Variant(prepare_tiles, tiles_fma, 1),
    "tiles_dot": Variant(prepare_tiles, tiles_dot, MAX_ROWS),
}


def _check_weight(weight: QuantizedWeight) -> None:
    K, N = weight.in_features, weight.out_features
    if weight.bits != 4 or weight.group_size != GROUP or weight.g_idx is not None:
        found = f"bits {weight.bits}, group_size {weight.group_size}, g_idx {weight.g_idx is not None}"
        raise ValueError(f"these kernels take 4 bits in groups of {GROUP} without g_idx; the weight has {found}")
    if K % GROUP or N % 8:
        raise ValueError(f"these kernels take K a multiple of {GROUP} and N of 8; the weight has K {K}, N {N}")
    if not bool((weight.zeros() == 8).all()):
        raise ValueError("these kernels take symmetric weights, where every zero is 8; this weight has others")


def _check_call(
    x: Tensor, weight: PreparedWeight, workspace: Workspace, out: Tensor | None, *, layout: str, max_rows: int
) -> Tensor:
    """Checks what a launch reads and writes; returns `out`, allocated if it was None."""
    if weight.layout != layout:
        raise ValueError(f"the weight is laid out as {weight.layout!r}; this kernel reads {layout!r}")
    if x.dtype != torch.bfloat16 or x.dim() != 2 or x.shape[1] != weight.in_features or not x.is_contiguous():
        raise ValueError(f"x is {x.dtype} {list(x.shape)}; it must be contiguous bfloat16 [M, {weight.in_features}]")
    if not 1 <= x.shape[0] <= max_rows:
        raise ValueError(f"x has {x.shape[0]} rows; this kernel takes 1 to {max_rows}")
    shape = x.shape[0], weight.out_features
    out = x.new_empty(shape) if out is None else out
    if out.shape != shape or out.dtype not in (torch.bfloat16, torch.float32) or not out.is_contiguous():
        raise ValueError(
            f"out is {out.dtype} {list(out.shape)}; it must be contiguous bfloat16 or float32 {list(shape)}"
        )
    if workspace.partials.shape[1:] != shape:
        raise ValueError(f"the workspace is for outputs {list(workspace.partials.shape[1:])}, not {list(shape)}")
    tensors = (weight.words, weight.scales, out, workspace.partials, workspace.counters)
    if any(tensor.device != x.device for tensor in tensors):
        raise ValueError(f"x is on {x.device}, and the weight, the workspace or out is not")
    return out


def _arguments(
    x: Tensor, weight: PreparedWeight, workspace: Workspace, out: Tensor
) -> tuple[tuple[Tensor, ...], tuple[int, ...], tuple[int, int]]:
    """What all kernels take first: the tensors, the sizes, and the grid (panels, splits)."""
    bias = out if weight.bias is None else weight.bias  # without a bias the kernel reads none; any pointer works
    tensors = x, weight.words, weight.scales, bias, out, workspace.partials, workspace.counters
    sizes = weight.out_features // 8, x.shape[0], weight.in_features // GROUP, workspace.num_splits
    return tensors, sizes, (triton.cdiv(weight.out_features, PANEL), workspace.num_splits)
