"""The tensors of a checkpoint under another layout: modules split or joined, the MLP made wider or narrower.

Values are copied, never computed. Where the forms differ: the zeros of symmetric GPTQ weights are stored as one version
of the format, g_idx is there or not, biases of zeros are there or not, and a wider MLP has weights that are zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.safetensors_file import DTYPES
from qwartet.checkpoint.stream_writer import NewTensor
from qwartet.checkpoint.weights import read_quantized_weight
from qwartet.convert.zero_groups import outputs_of, with_inputs, with_outputs
from qwartet.errors import CheckpointError
from qwartet.models.load import OpenCheckpoint
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import pack_qzeros
from qwartet.quant_format.weight import QuantizedWeight

PART_BYTES = 2**26  # of a float tensor that is copied as it is: in memory at a time
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class NewForm:
    """What the new checkpoint stores. Linears are named as in the network: "layers.3.mlp.up"."""

    layout: Layout
    biases: Mapping[str, str]  # the linears that have a bias, with its dtype
    v2_zeros: frozenset[str] = frozenset()  # the symmetric linears whose zeros are stored as version 2 does
    without_g_idx: frozenset[str] = frozenset()


def bias_dtype(opened: OpenCheckpoint, module: ModuleSpec) -> str | None:
    """The dtype of a linear's bias in the file; None if it has none."""
    names = [name for name in module.disk_names("bias") if name in opened.checkpoint]
    return opened.checkpoint.info(names[0]).dtype if names else None


def float_dtype(opened: OpenCheckpoint, module: ModuleSpec) -> str:
    """The dtype of a module's floats: those of its weight, or its scales."""
    leaf = "scales" if opened.gptq is not None and module.kind == "linear" else "weight"
    return opened.checkpoint.info(module.disk_names(leaf)[0]).dtype


@dataclass
class Rewriting:
    """The tensors of `opened` in a new form. CheckpointError for a tensor that cannot be used, when it is made."""

    opened: OpenCheckpoint
    form: NewForm
    found_v2_zeros: set[str] = field(default_factory=set)  # linears of the source; complete when all tensors are made

    def __post_init__(self) -> None:
        # Of one linear, the tensors are made one after another.
        self._linear = lru_cache(maxsize=1)(self._read_linear)
        self._part = lru_cache(maxsize=1)(self._make_part)

    def tensors(self) -> Iterator[NewTensor]:
        """All tensors, in the order of the forward pass."""
        for old in self.opened.layout:
            new = self.form.layout[old.name]
            self._check_parts(old)
            if self.opened.gptq is not None and old.kind == "linear":
                yield from self._quantized(old, new, self.opened.gptq)
            else:
                yield from self._dense(old, new)

    def _check_parts(self, module: ModuleSpec) -> None:
        """CheckpointError for parts that cannot be joined, because their floats are of different dtypes."""
        for leaf in ("weight", "bias", "scales"):
            names = [name for name in module.disk_names(leaf) if name in self.opened.checkpoint]
            dtypes = sorted({self.opened.checkpoint.info(name).dtype for name in names})
            if len(dtypes) > 1:
                file = self.opened.checkpoint.info(names[0]).file
                reason = f"dtypes {' and '.join(dtypes)} in parts of one module"
                raise CheckpointError(file, reason, tensor=names[0], hint="save the checkpoint in one dtype")

    def _dense(self, old: ModuleSpec, new: ModuleSpec) -> Iterator[NewTensor]:
        dtypes = {"weight": float_dtype(self.opened, old)}
        if new.name in self.form.biases:
            dtypes["bias"] = self.form.biases[new.name]
        start = 0
        for part, rows in new.parts:
            for leaf, dtype in dtypes.items():
                shape = (rows, *new.shape[1:]) if leaf == "weight" else (rows,)
                yield NewTensor(f"{part}.{leaf}", dtype, shape, partial(self._dense_rows, old, new, leaf, start, rows))
            start += rows

    def _dense_rows(
        self, old: ModuleSpec, new: ModuleSpec, leaf: str, start: int, rows: int
    ) -> Tensor | Iterator[Tensor]:
        """Some rows of a float tensor of the new module."""
        names = [name for name in old.disk_names(leaf) if name in self.opened.checkpoint]
        if not names:
            return torch.zeros(rows, dtype=DTYPES[self.form.biases[new.name]])
        if len(names) == 1 and old.shape == new.shape:
            return self._parts(names[0], start, start + rows)
        whole = torch.cat([self.opened.checkpoint.read(name) for name in names])
        try:
            return _resized(whole, new.shape[: whole.dim()])[start : start + rows]
        except ValueError as error:
            raise self._unusable(old, str(error)) from None

    def _parts(self, name: str, start: int, stop: int) -> Iterator[Tensor]:
        info = self.opened.checkpoint.info(name)
        step = max(PART_BYTES * info.shape[0] // info.nbytes, 1)
        for first in range(start, stop, step):
            yield self.opened.checkpoint.read(name, (slice(first, min(first + step, stop)),))

    def _quantized(self, old: ModuleSpec, new: ModuleSpec, gptq: GptqConfig) -> Iterator[NewTensor]:
        columns = new.shape[1]
        group_size = columns if gptq.group_size == -1 else min(gptq.group_size, columns)
        groups = -(-columns // group_size)
        start = 0
        for part, rows in new.parts:
            packed_rows = rows * gptq.bits // 32
            leaves: dict[str, tuple[str, tuple[int, ...]]] = {
                "qweight": ("I32", (columns * gptq.bits // 32, rows)),
                "qzeros": ("I32", (groups, packed_rows)),
                "scales": (float_dtype(self.opened, old), (groups, rows)),
                "g_idx": ("I32", (columns,)),
                "bias": (self.form.biases.get(new.name, ""), (rows,)),
            }
            if new.name in self.form.without_g_idx:
                del leaves["g_idx"]
            if new.name not in self.form.biases:
                del leaves["bias"]
            for leaf, (dtype, shape) in leaves.items():
                make = partial(self._quantized_leaf, old, new, (start, start + rows), leaf)
                yield NewTensor(f"{part}.{leaf}", dtype, shape, make)
            start += rows

    def _quantized_leaf(self, old: ModuleSpec, new: ModuleSpec, rows: tuple[int, int], leaf: str) -> Tensor:
        part = self._part(old, new, rows)
        if leaf == "bias" and part.bias is None:
            return torch.zeros(part.out_features, dtype=DTYPES[self.form.biases[new.name]])
        return part.to_tensors()[leaf]

    def _make_part(self, old: ModuleSpec, new: ModuleSpec, rows: tuple[int, int]) -> QuantizedWeight:
        whole = self._linear(old, new)
        return whole if rows == (0, whole.out_features) else outputs_of(whole, *rows)

    def _read_linear(self, old: ModuleSpec, new: ModuleSpec) -> QuantizedWeight:
        """A linear with the sizes and the zeros of the new form."""
        assert self.opened.gptq is not None
        weight = read_quantized_weight(self.opened.checkpoint, old, self.opened.gptq, _CPU)
        scales = [self.opened.checkpoint.read(name) for name in old.disk_names("scales")]
        weight = replace(weight, scales=scales[0] if len(scales) == 1 else torch.cat(scales, dim=1))  # not rounded
        if weight.sym and weight.zero_format == "v2":
            self.found_v2_zeros.add(old.name)
        try:
            weight = with_outputs(weight, new.shape[0])
            weight = with_inputs(weight, new.shape[1], self.opened.gptq.group_size)
        except ValueError as error:
            raise self._unusable(old, str(error)) from None
        zero_format = weight.zero_format
        if weight.sym:
            zero_format = "v2" if new.name in self.form.v2_zeros else "v1"
        if zero_format == weight.zero_format:
            return weight
        qzeros = pack_qzeros(weight.zeros(), weight.bits, zero_format)
        return replace(weight, qzeros=qzeros, zero_format=zero_format)

    def _unusable(self, old: ModuleSpec, reason: str) -> CheckpointError:
        file = next(self.opened.checkpoint.info(name).file for name in self._names_of(old))
        return CheckpointError(file, reason, tensor=old.disk_name, hint="convert the original checkpoint again")

    def _names_of(self, module: ModuleSpec) -> Iterator[str]:
        leaves = ("weight", "qweight")
        return (name for leaf in leaves for name in module.disk_names(leaf) if name in self.opened.checkpoint)


def _resized(whole: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor with zeros added at its ends, or cut there; ValueError where what is cut is not zero."""
    for dim, size in enumerate(shape):
        length = whole.shape[dim]
        if size < length:
            if bool(whole.narrow(dim, size, length - size).count_nonzero()):
                raise ValueError("the padding to remove is not zero")
            whole = whole.narrow(dim, 0, size)
        elif size > length:
            whole = pad(whole, (*(0, 0) * (whole.dim() - 1 - dim), 0, size - length))
    return whole
