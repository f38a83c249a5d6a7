"""The device that a model runs on, by name."""

from __future__ import annotations

import re

import torch

from qwartet.errors import SettingError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device to run on; "auto" is the first GPU if there is one. SettingError for a device that does not exist."""
    name = str(device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", name, re.ASCII) is None:
        raise SettingError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    index = int(name.partition(":")[2] or 0)
    if name != "cpu" and index >= torch.cuda.device_count():
        raise SettingError(f"device is {name}, but torch sees {torch.cuda.device_count()} GPUs; see qwartet doctor")
    return torch.device(name)
