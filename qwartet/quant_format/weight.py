"""One quantised linear as a GPTQ file holds it, and the float matrix that it stands for.

    w[n, k] = scales[g, n] * (q[k, n] - zero[g, n])      with g = g_idx[k], or k // group_size without g_idx

Shape letters: K in_features, N out_features, G groups.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qwartet.quant_format.awq_config import AwqConfig
from qwartet.quant_format.checks import AwqChecks, LinearChecks
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import (
    ZeroFormat,
    pack_qweight,
    pack_qzeros,
    unpack_qweight,
    unpack_qzeros,
)

TILE_VALUES = 1 << 22  # dequantised at a time: bounds the temporary memory to a few times 16 MB


@dataclass(frozen=True)
class QuantizedShape:
    """What determines the layout of a quantised linear; known from a file's headers."""

    in_features: int
    out_features: int
    bits: int
    group_size: int
    num_groups: int
    sym: bool
    has_bias: bool
    has_order: bool  # a g_idx, which may reorder the inputs


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A quantised linear, unchanged from a GPTQ file; `from_tensors` checks what comes from outside."""

    bits: int  # 4 or 8
    group_size: int  # inputs of a group, 1 to K; the last group may have fewer
    qweight: Tensor  # int32 [K * bits / 32, N]
    scales: Tensor  # fp16 [G, N]
    qzeros: Tensor  # int32 [G, N * bits / 32]
    g_idx: Tensor | None = None  # int32 [K], group of each input; None: k // group_size
    bias: Tensor | None = None  # fp16, bf16 or fp32 [N], as the file has it
    zero_format: ZeroFormat = "v1"  # how qzeros stores a zero
    sym: bool = True  # every zero is 2**(bits - 1)

    def __post_init__(self) -> None:
        assert self.bits in (4, 8) and 1 <= self.group_size <= self.in_features, (self.bits, self.group_size)
        assert self.num_groups == -(-self.in_features // self.group_size), (self.num_groups, self.in_features)
        assert self.scales.shape == (self.num_groups, self.out_features), tuple(self.scales.shape)
        assert self.qzeros.shape == (self.num_groups, self.out_features * self.bits // 32), tuple(self.qzeros.shape)
        assert self.g_idx is None or self.g_idx.shape == (self.in_features,), tuple(self.g_idx.shape)
        assert self.bias is None or self.bias.shape == (self.out_features,), tuple(self.bias.shape)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], config: GptqConfig, *, name: str, path: str | os.PathLike[str]
    ) -> QuantizedWeight:
        """From `qweight`, `qzeros`, `scales` and optional `g_idx`, `bias` of the linear `name` in the file at `path`.

        Codes and zeros of AWQ are packed anew, exactly. Of GPTQ, only scales that are not fp16 are copied, to convert
        them. CheckpointError if tensors contradict each other or
        `config`, hold NaN, or could make a kernel read out of bounds; CheckpointWarning for scales that are rounded or
        not above zero, and for a wrong format label.
        """
        kind = AwqChecks if isinstance(config, AwqConfig) else LinearChecks
        checks = kind(tensors, config, name=name, path=path)
        checks.check_dtypes()
        group_size = checks.check_shapes()
        g_idx = checks.check_group_index(group_size)
        checks.check_scales()
        zero_format = checks.choose_zero_format()
        qweight, qzeros = checks.gptq_words()
        return cls(
            bits=config.bits,
            group_size=group_size,
            qweight=qweight,
            scales=checks.half_scales(),
            qzeros=qzeros,
            g_idx=g_idx,
            bias=tensors.get("bias"),
            zero_format=zero_format,
            sym=config.sym,
        )

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor,
        *,
        bits: int,
        group_size: int,
        sym: bool,
        g_idx: Tensor | None = None,
    ) -> QuantizedWeight:
        """Packs codes uint8 [K, N], scales [G, N] (rounded to fp16) and zeros uint8 [G, N] in format v1."""
        qzeros = pack_qzeros(zeros, bits, "v1")
        return cls(bits, group_size, pack_qweight(codes, bits), scales.half(), qzeros, g_idx, None, "v1", sym)

    @classmethod
    def join(cls, parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
        """Linears of the same input as one, rows one after another; ValueError if their groups differ."""
        first = parts[0]
        for part in parts[1:]:
            for name in ("bits", "group_size", "zero_format", "sym"):
                if getattr(part, name) != getattr(first, name):
                    raise ValueError(f"{name} of the parts differs: {getattr(first, name)} and {getattr(part, name)}")
            if not torch.equal(part.group_of_input(), first.group_of_input()):
                raise ValueError("its parts take the inputs in different orders")
        biases = [part.scales.new_zeros(part.out_features) if part.bias is None else part.bias for part in parts]
        return replace(
            first,
            qweight=torch.cat([part.qweight for part in parts], dim=1),
            scales=torch.cat([part.scales for part in parts], dim=1),
            qzeros=torch.cat([part.qzeros for part in parts], dim=1),
            bias=None if all(part.bias is None for part in parts) else torch.cat(biases),
        )

    @property
    def in_features(self) -> int:
        """K."""
        return self.qweight.shape[0] * (32 // self.bits)

    @property
    def out_features(self) -> int:
        """N."""
        return self.qweight.shape[1]

    @property
    def num_groups(self) -> int:
        """G."""
        return self.scales.shape[0]

    @property
    def shape(self) -> QuantizedShape:
        has_bias, has_order = self.bias is not None, self.g_idx is not None
        size = (self.in_features, self.out_features, self.bits, self.group_size, self.num_groups)
        return QuantizedShape(*size, self.sym, has_bias, has_order)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors present, by their names in a file."""
        found = {name: getattr(self, name) for name in ("qweight", "scales", "qzeros", "g_idx", "bias")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def codes(self) -> Tensor:
        """The integers q, uint8 [K, N]."""
        return unpack_qweight(self.qweight, self.bits)

    def zeros(self) -> Tensor:
        """The true zeros, uint8 [G, N], whichever version of the format stored them."""
        return unpack_qzeros(self.qzeros, self.bits, self.zero_format)

    def group_of_input(self) -> Tensor:
        """The group of each input, int32 [K]."""
        if self.g_idx is not None:
            return self.g_idx
        return torch.arange(self.in_features, dtype=torch.int32, device=self.qweight.device) // self.group_size

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [N, K], computed in fp32 and rounded once to `dtype`."""
        dense = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.qweight.device)
        num_rows = max(TILE_VALUES // self.in_features, 1)
        for start in range(0, self.out_features, num_rows):
            stop = min(start + num_rows, self.out_features)
            dense[start:stop] = self.dequantize_rows(start, stop)
        return dense

    def dequantize_rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop of the matrix, fp32 [stop - start, K]: a tile, for work in bounded memory."""
        group = self.group_of_input()
        # A word of qzeros covers 32/bits outputs, so zeros are unpacked a little wider than asked for.
        lanes = 32 // self.bits
        first = start // lanes
        qzeros = self.qzeros[:, first : -(-stop // lanes)]
        zeros = unpack_qzeros(qzeros, self.bits, self.zero_format)[:, start - first * lanes : stop - first * lanes]
        codes = unpack_qweight(self.qweight[:, start:stop], self.bits)
        distance = codes.float().sub_(zeros.float().index_select(0, group))  # exact: small integers
        return distance.mul_(self.scales[:, start:stop].float().index_select(0, group)).t()

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors as a published checkpoint stores them: always with g_idx and a bias."""
        return {
            "qweight": self.qweight,
            "qzeros": self.qzeros,
            "scales": self.scales,
            "g_idx": self.group_of_input(),
            "bias": self.scales.new_zeros(self.out_features) if self.bias is None else self.bias,
        }
