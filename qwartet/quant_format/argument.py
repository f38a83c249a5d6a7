"""The argument quantization_config of from_pretrained: for a GPTQ checkpoint it can only choose kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwartet.errors import SettingError


def check_same_bits(given: Any, own: Any) -> None:
    """A config with the checkpoint's own bits is ignored: it would only choose kernels."""
    bits = given.get("bits") if isinstance(given, Mapping) else getattr(given, "bits", None)
    if given is not None and (not isinstance(own, Mapping) or bits != own.get("bits")):
        shown = "no quantisation" if own is None else f"{own.get('bits')} bits"
        raise SettingError(
            f"quantization_config asks for {bits} bits, and the checkpoint has {shown}; leave it out, or make a "
            "quantised checkpoint with `qwartet quantize`",
            param="quantization_config",
        )
