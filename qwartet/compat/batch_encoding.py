"""What a tokenizer call returns: rows of ids padded to one length, as lists, tensors or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from qwartet.errors import SettingError

NO_LIMIT = int(1e30)  # transformers' value for "unknown"


class BatchEncoding(dict[str, Any]):
    """What a tokenizer call returns: a dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> Self:
        """Move all tensors to a device, in place."""
        for key, value in self.items():
            if hasattr(value, "to"):
                self[key] = value.to(device)
        return self


def padded_length(rows: Sequence[Sequence[int]], padding: bool | str, limit: int, multiple: int | None) -> int:
    """The length that rows are padded to; 0 for no padding."""
    if padding in (False, None, "do_not_pad"):
        return 0
    if padding == "max_length":
        if limit >= NO_LIMIT:
            raise SettingError("padding='max_length' needs a length; pass max_length=")
        length = limit
    elif padding in (True, "longest"):
        length = max(map(len, rows), default=0)
    else:
        raise SettingError(f"padding is {padding!r}; use True, 'longest', 'max_length' or False")
    if multiple is None:
        return length
    if multiple < 1:
        raise SettingError(f"pad_to_multiple_of is {multiple}; it must be at least 1")
    return -(-length // multiple) * multiple


def padded_batch(
    rows: Sequence[Sequence[int]], length: int, pad_id: int | None, side: str
) -> dict[str, list[list[int]]]:
    """input_ids, token_type_ids (zeros) and attention_mask of rows, each padded on a side to a length; 0: none."""
    if length and rows and pad_id is None:
        raise SettingError("there is no padding token; load with pad_token='<|extra_0|>'")
    batch: dict[str, list[list[int]]] = {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    for row in rows:
        pads, mask = [pad_id] * max(0, length - len(row)), [1] * len(row)
        ids: list[Any] = [*pads, *row] if side == "left" else [*row, *pads]
        batch["input_ids"].append(ids)
        batch["token_type_ids"].append([0] * len(ids))
        batch["attention_mask"].append([0] * len(pads) + mask if side == "left" else mask + [0] * len(pads))
    return batch


def as_tensors(batch: Mapping[str, list[list[int]]], return_tensors: str) -> dict[str, Any]:
    """The same rows as int64 tensors ("pt") or arrays ("np") [B, T]; SettingError if they differ in length."""
    if return_tensors not in ("pt", "np"):
        raise SettingError(f"return_tensors is {return_tensors!r}; use 'pt', 'np' or None")
    for rows in batch.values():
        if len(set(map(len, rows))) > 1:
            raise SettingError("the texts differ in length; use padding=True (and a pad_token), or one text at a time")
    if return_tensors == "np":
        return {key: np.array(rows, dtype=np.int64) for key, rows in batch.items()}
    import torch

    return {key: torch.tensor(rows, dtype=torch.int64) for key, rows in batch.items()}
