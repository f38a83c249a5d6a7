"""Which modules of a network own tensors, and what are these called in a checkpoint?

A family (models/family.py) declares this once, as data, for all code that reads or writes checkpoints. A module may be
stored in several parts whose rows are concatenated: a fused qkv as q, k and v.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

LINEARS = ("attention.qkv", "attention.output", "mlp.up", "mlp.gate", "mlp.down")
"""The linears of a block, in the order in which GPTQ quantises them."""

Kind = Literal["embedding", "norm", "linear", "head"]


@dataclass(frozen=True)
class ModuleSpec:
    """A module, the shape of its weight, and its parts on disk."""

    name: str  # in the network: "layers.3.mlp.up"
    kind: Kind
    shape: tuple[int, ...]  # of the weight: [N, K], or [C] of a norm
    parts: tuple[tuple[str, int], ...]  # (name on disk, rows), in the order of the rows
    fields: str = ""  # the keys of config.json that imply the shape
    needs_bias: bool = False  # otherwise the bias of a linear is optional
    allows_bias: bool = True  # otherwise the network has none: one on disk must be zero, and is not loaded

    @property
    def disk_name(self) -> str:
        """Its name on disk; that of the first part if there are several."""
        return self.parts[0][0]

    def disk_names(self, leaf: str) -> list[str]:
        """The tensors that a leaf ("weight", "qweight") consists of."""
        return [f"{part}.{leaf}" for part, _rows in self.parts]

    def has_bias(self, stored: Container[str]) -> bool:
        """Whether the network gets a bias from a checkpoint with these tensors."""
        return self.allows_bias and self.disk_names("bias")[0] in stored


@dataclass(frozen=True)
class Layout:
    """All modules of one network, in the order of the forward pass."""

    modules: tuple[ModuleSpec, ...]
    num_layers: int
    layer_pattern: re.Pattern[str]  # matches the names on disk of a layer; its group is the layer's number
    harmless_extras: re.Pattern[str]  # buffers that old checkpoints carry and that every engine recomputes
    spare_head: str | None = None  # of a network with tied embeddings: the head's name in files that hold one too
    can_tie: bool = False  # whether tie_word_embeddings may be true in this family

    @cached_property
    def _by_name(self) -> dict[str, ModuleSpec]:
        return {module.name: module for module in self.modules}

    def __getitem__(self, name: str) -> ModuleSpec:
        return self._by_name[name]

    def __iter__(self) -> Iterator[ModuleSpec]:
        return iter(self.modules)

    @property
    def is_tied(self) -> bool:
        """Whether the head is stored as the embedding."""
        return self["lm_head"].parts == self["embedding"].parts

    def of_layer(self, index: int) -> list[ModuleSpec]:
        """The modules of one block."""
        return [module for module in self.modules if module.name.startswith(f"layers.{index}.")]

    def parameter_name(self, parameter: str) -> str:
        """Name on disk of a parameter: "norm.weight" -> "transformer.ln_f.weight"."""
        module, _, leaf = parameter.rpartition(".")
        return f"{self[module].disk_name}.{leaf}"

    def layer_of(self, tensor: str) -> int | None:
        """Layer that a name on disk belongs to; None outside the layers."""
        match = self.layer_pattern.match(tensor)
        return int(match[1]) if match else None

    def is_harmless_extra(self, name: str) -> bool:
        """Whether a tensor that no module owns may be ignored silently."""
        return self.harmless_extras.fullmatch(name) is not None
