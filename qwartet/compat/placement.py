"""The device and dtype of a model, from all the arguments that the original takes for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qwartet.errors import SettingError
from qwartet.models.device import resolve_device
from qwartet.models.load import Dtype

_FLAGS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_NAMES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "half": torch.float16, "float32": torch.float32}
_AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")


def chosen_dtype(flags: Mapping[str, bool], torch_dtype: Any) -> Dtype:
    """The dtype that the flags bf16, fp16 and fp32 and torch_dtype agree on, or "auto"; SettingError if they differ.

    torch_dtype is a torch.dtype, its name ("float16", "torch.float16") or "auto".
    """
    chosen = [name for name, is_set in flags.items() if is_set]
    if len(chosen) > 1:
        raise SettingError(f"only one of bf16, fp16 and fp32 may be true; got {' and '.join(chosen)}")
    if isinstance(torch_dtype, str):
        torch_dtype = {**_FLAGS, **_NAMES}.get(torch_dtype.removeprefix("torch."), torch_dtype)
    if chosen and torch_dtype not in (None, "auto", _FLAGS[chosen[0]]):
        raise SettingError(f"{chosen[0]}=True, but torch_dtype is {torch_dtype}; pass one of them", param="torch_dtype")
    dtype: Dtype = _FLAGS[chosen[0]] if chosen else "auto" if torch_dtype is None else torch_dtype
    return dtype


def chosen_device(device_map: Any) -> torch.device:
    """The one device that a device_map means: None is the CPU, as published; SettingError for several."""
    if isinstance(device_map, Mapping):
        devices = {_device(value) for value in device_map.values()}
        if len(devices) != 1:
            shown = ", ".join(sorted(map(str, devices))) or "no device"
            raise SettingError(
                f"device_map names {shown}; a model is on one device here: pass 'auto' or one device",
                param="device_map",
            )
        return devices.pop()
    return _device("cpu" if device_map is None else device_map)


def parsed_to(arguments: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[torch.dtype | None, torch.device | None]:
    """dtype and device that the arguments of `.to()` ask for, as torch reads them; None for what stays the same."""
    dtype, device = None, None
    for one in (*arguments, options.get("dtype"), options.get("device")):
        if isinstance(one, torch.dtype):
            dtype = one
        elif isinstance(one, Tensor):
            dtype, device = one.dtype, one.device
        elif one is not None and not isinstance(one, bool):  # non_blocking, copy
            device = _device(one)
    if unknown := options.keys() - {"dtype", "device", "non_blocking", "copy", "memory_format"}:
        raise SettingError(f"to() has no argument {min(unknown)!r}; pass a device or a dtype")
    return dtype, device


def _device(given: Any) -> torch.device:
    if isinstance(given, int) and not isinstance(given, bool):
        given = f"cuda:{given}"
    if not isinstance(given, str | torch.device):
        message = f"device_map is {given!r:.60}; it must be 'auto', 'cpu' or one device such as 'cuda:0'"
        raise SettingError(message, param="device_map")
    device = resolve_device("auto" if given in _AUTOMATIC else given)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
