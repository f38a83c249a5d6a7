"""Results of the model, with fields by attribute, key and index, as in transformers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


class _Output:
    def __getitem__(self, key: str | int) -> Any:
        """A field by its name, or by its index among those present."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]  # type: ignore[arg-type]
        if isinstance(key, str) and key not in names:
            raise KeyError(key)
        return getattr(self, key if isinstance(key, str) else names[key])


@dataclass
class CausalLMOutput(_Output):
    """Result of calling the model: the loss if labels were passed, and logits [B, L, V]."""

    loss: Tensor | None
    logits: Tensor


@dataclass
class GenerateOutput(_Output):
    """Result of generate(return_dict_in_generate=True): prompt and completion ids [B, longest]."""

    sequences: Tensor
