"""Whether the tensors of one quantised linear can be trusted: dtypes, shapes, group index, scales, zeros.

Every check raises CheckpointError for data without a valid interpretation. After all of them a kernel may index by the
shapes and by g_idx without checking again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.quant_format.awq_config import LANES
from qwartet.quant_format.awq_packing import gptq_qweight, gptq_qzeros
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import ZeroFormat, detect_zero_format

INTEGERS = (torch.int32,)
FLOATS = (torch.float16, torch.bfloat16, torch.float32)  # published files have fp16
DTYPES = {
    "qweight": (INTEGERS, 2),
    "qzeros": (INTEGERS, 2),
    "scales": (FLOATS, 2),
    "g_idx": (INTEGERS, 1),
    "bias": (FLOATS, 1),
}
OPTIONAL = ("g_idx", "bias")
FORMAT_OF_LABEL: dict[str | None, ZeroFormat] = {None: "v1", "gptq": "v1", "gptq_v2": "v2"}


class LinearChecks:
    """The checks of one linear `name` of the file at `path`, run in the order of the methods."""

    def __init__(
        self, tensors: Mapping[str, Tensor], config: GptqConfig, *, name: str, path: str | os.PathLike[str]
    ) -> None:
        self.tensors = tensors
        self.config = config
        self.name = name
        self.path = path

    def check_dtypes(self) -> None:
        """Each tensor exists, and has a dtype of its kind and the published number of dimensions."""
        method = self.config.method.upper()
        for suffix, (dtypes, num_dims) in DTYPES.items():
            tensor = self.tensors.get(suffix)
            if tensor is None:
                if suffix not in OPTIONAL:
                    raise self._error(
                        suffix, "is missing", f"the download is incomplete, or this linear is not {method}"
                    )
                continue
            if tensor.dtype not in dtypes:
                stored = " or ".join(map(_short, dtypes))
                raise self._error(suffix, f"dtype is {_short(tensor.dtype)}; {method} stores {stored}")
            if tensor.dim() != num_dims or tensor.numel() == 0:
                raise self._error(suffix, f"shape is {list(tensor.shape)}; it must have {num_dims} dimensions, none 0")

    def check_shapes(self) -> int:
        """The shapes agree with each other and with the config; returns group_size as a positive number."""
        bits = self.config.bits
        num_words, out_features = self.tensors["qweight"].shape
        num_groups, num_zero_words = self.tensors["qzeros"].shape
        if list(self.tensors["scales"].shape) != [num_groups, out_features]:
            found = list(self.tensors["scales"].shape)
            raise self._error("scales", f"shape is {found}; qweight and qzeros imply {[num_groups, out_features]}")
        if num_zero_words * 32 != out_features * bits:
            implied = f"{num_zero_words * 32 / out_features:g}"
            raise self._error("qzeros", f"the config says bits {bits}; qzeros and scales imply bits {implied}")
        in_features = num_words * (32 // bits)
        self._check_sizes(in_features, out_features)
        self._check_num_groups(in_features)
        return self.config.group_size_of(in_features)

    def _check_sizes(self, in_features: int, out_features: int) -> None:
        for suffix, size in (("g_idx", in_features), ("bias", out_features)):
            tensor = self.tensors.get(suffix)
            if tensor is not None and len(tensor) != size:
                bits = self.config.bits
                raise self._error(suffix, f"has {len(tensor)} entries; qweight with bits {bits} implies {size}")

    def _check_num_groups(self, in_features: int) -> None:
        num_groups, want = len(self.tensors["scales"]), -(-in_features // self.config.group_size_of(in_features))
        if num_groups != want:
            reason = f"the config says group_size {self.config.group_size}, so {want} groups"
            raise self._error("scales", f"{reason} for {in_features} inputs; the tensor has {num_groups} groups")

    def check_group_index(self, group_size: int) -> Tensor | None:
        """Every group has its group_size inputs (the last may have fewer); returns g_idx, None for i // group_size."""
        g_idx = self.tensors.get("g_idx")
        if g_idx is None:
            if self.config.desc_act:
                raise self._error("g_idx", "is missing; with desc_act true no other tensor assigns inputs to groups")
            return None
        num_groups = len(self.tensors["scales"])
        low, high = (int(bound) for bound in g_idx.aminmax())
        if low < 0 or high >= num_groups:
            raise self._error("g_idx", f"values range from {low} to {high}; the groups are 0 to {num_groups - 1}")
        in_order = torch.arange(len(g_idx), dtype=torch.int32, device=g_idx.device) // group_size
        if torch.equal(g_idx, in_order):
            return None
        if not self.config.desc_act:
            first = int((g_idx != in_order).nonzero()[0])
            reason = (
                f"input {first} is in group {int(g_idx[first])}, not {int(in_order[first])}, though desc_act is false"
            )
            raise self._error(
                "g_idx", reason, "if the columns were quantised in activation order, desc_act must be true"
            )
        if not torch.equal(g_idx.sort().values, in_order):
            raise self._error("g_idx", f"does not assign {group_size} inputs to every group")
        return g_idx

    def check_scales(self) -> None:
        """Scales and bias are finite; negative or zero scales only cause a warning."""
        for suffix in ("scales", "bias"):
            tensor = self.tensors.get(suffix)
            if tensor is not None and (bad := int((~tensor.isfinite()).sum())):
                raise self._error(suffix, f"{bad} of {tensor.numel()} values are NaN or infinite", "download it again")
        if bad := int((self.tensors["scales"] <= 0).sum()):
            self._warn(f"{self.path}: {self.name}.scales: {bad} values are negative or zero; used as they are")

    def half_scales(self) -> Tensor:
        """The scales in fp16, as kernels need them: unchanged, or rounded to nearest with a warning."""
        scales = self.tensors["scales"]
        half = scales.half()
        if not half.isfinite().all():
            raise self._error(
                "scales", f"reach {scales.abs().max():g}; the largest fp16 number is 65504", "quantise the model again"
            )
        if half.dtype != scales.dtype and not torch.equal(half.to(scales.dtype), scales):
            self._warn(
                f"{self.path}: scales are {_short(scales.dtype)}, and not all are exact in fp16; each is rounded to "
                "nearest, by up to 2^-11 of its value (2^-25 if it is below 2^-14)"
            )
        return half

    def gptq_words(self) -> tuple[Tensor, Tensor]:
        """qweight and qzeros as GPTQ packs them, which is how the file has them."""
        return self.tensors["qweight"], self.tensors["qzeros"]

    def choose_zero_format(self) -> ZeroFormat:
        """Which version wrote qzeros: for symmetric weights their value decides, for others the config must say."""
        label = self.config.checkpoint_format
        if not self.config.sym:
            if label is None:
                hint = 'add "checkpoint_format": "gptq" (stored zeros are one too low) or "gptq_v2" to the config'
                raise CheckpointError(self.path, "sym is false and checkpoint_format is not stated", hint=hint)
            return FORMAT_OF_LABEL[label]
        found = detect_zero_format(self.tensors["qzeros"], self.config.bits)
        if found is None:
            raise self._error("qzeros", "sym is true, but the zeros are not all the midpoint of either format version")
        if found != FORMAT_OF_LABEL[label]:
            stated = "checkpoint_format is not stated, which means gptq" if label is None else f"it is labelled {label}"
            wrote = "gptq" if found == "v1" else "gptq_v2"
            # Without the linear's name: every linear gives the same warning, and it is shown once.
            self._warn(f"{self.path}: {stated}, but the stored zeros are those of {wrote}; read as {wrote}")
        return found

    def _error(self, suffix: str, reason: str, hint: str | None = None) -> CheckpointError:
        return CheckpointError(self.path, reason, tensor=f"{self.name}.{suffix}", hint=hint)

    def _warn(self, message: str) -> None:
        warnings.warn(CheckpointWarning(message), stacklevel=4)


class AwqChecks(LinearChecks):
    """The checks of a linear of AWQ, version gemm."""

    def check_shapes(self) -> int:
        in_features, num_words = self.tensors["qweight"].shape
        num_groups, num_zero_words = self.tensors["qzeros"].shape
        out_features, group_size = num_words * LANES, self.config.group_size_of(in_features)
        hint = "the config is not of these tensors, or they are of another version than gemm"
        if num_zero_words != num_words:
            reason = f"has {num_zero_words} words in a row and qweight {num_words}; both pack the outputs"
            raise self._error("qzeros", reason, hint)
        if list(self.tensors["scales"].shape) != [num_groups, out_features]:
            found = list(self.tensors["scales"].shape)
            raise self._error(
                "scales", f"shape is {found}; qweight and qzeros imply {[num_groups, out_features]}", hint
            )
        if in_features % LANES:
            raise self._error("qweight", f"has {in_features} inputs; AWQ is supported for multiples of {LANES}")
        if in_features % group_size:
            reason = f"the config says group_size {group_size}, which does not divide the {in_features} inputs"
            raise self._error("scales", reason, hint)
        self._check_sizes(in_features, out_features)
        self._check_num_groups(in_features)
        return group_size

    def gptq_words(self) -> tuple[Tensor, Tensor]:
        """qweight and qzeros, packed anew."""
        return gptq_qweight(self.tensors["qweight"]), gptq_qzeros(self.tensors["qzeros"])

    def choose_zero_format(self) -> ZeroFormat:
        """Version 2, which stores zeros as they are; without zero_point each of them must be 8."""
        if self.config.sym and detect_zero_format(self.tensors["qzeros"], self.config.bits) != "v2":
            hint = "set zero_point to true in config.json"
            raise self._error("qzeros", "zero_point is false, but the zeros are not all 8", hint)
        return "v2"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
