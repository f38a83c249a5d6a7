"""Which method quantised a checkpoint, GPTQ or AWQ? Its configuration says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from qwartet.errors import CheckpointError
from qwartet.quant_format.awq_config import AWQ_KEYS, AwqConfig
from qwartet.quant_format.config import GptqConfig

METHODS: Mapping[str, type[GptqConfig]] = {"gptq": GptqConfig, "awq": AwqConfig}


def parse_quantization_config(values: Mapping[str, Any], path: str | os.PathLike[str]) -> GptqConfig:
    """The settings of a quantised checkpoint; CheckpointError, naming `path`, for a method that is not supported."""
    if not isinstance(values, Mapping):
        raise CheckpointError(path, f"the quantization config is a {type(values).__name__}, not a JSON object")
    method = values.get("quant_method") or values.get("method")
    if method is None and (values.get("load_in_4bit") or values.get("load_in_8bit")):
        method = "bitsandbytes"  # whose early files do not say so
    if method is None:
        method = "awq" if any(key in values for key in AWQ_KEYS) else "gptq"
    if not isinstance(method, str) or method not in METHODS:
        reason = f"quant_method is {method!r:.80}; only {' and '.join(map(repr, METHODS))} are supported"
        hint = "use a GPTQ or AWQ checkpoint of this model, or quantise the float model with `qwartet quantize`"
        raise CheckpointError(path, reason, hint=hint)
    return METHODS[method].from_dict(values, path)
