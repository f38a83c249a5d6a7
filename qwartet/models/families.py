"""Which family does a checkpoint belong to? The list of families, and the queries that go through a family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG, adapter_error, check_not_gguf
from qwartet.errors import CheckpointError
from qwartet.models.config import ModelConfig
from qwartet.models.family import Family
from qwartet.models.qwen1 import QWEN1

FAMILIES: dict[str, Family] = {family.model_type: family for family in (QWEN1,)}


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig from the content of a config.json; CheckpointError for an unknown family, or from the known one."""
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        hint = 'Qwartet runs first-generation Qwen models (model_type "qwen")'
        raise CheckpointError(path, f"model_type is {model_type!r}", hint=hint)
    return family.parse_config(raw, path)


def load_config(directory: Path) -> ModelConfig:
    """ModelConfig of a checkpoint directory."""
    path = directory / "config.json"
    if not has_file(path):
        if has_file(directory / ADAPTER_CONFIG):
            raise adapter_error(directory)
        check_not_gguf(directory)
    return parse_config(read_json(path), path)


def family_of(config: ModelConfig) -> Family:
    """The family that a config was parsed by."""
    return FAMILIES[config.family]


def layout_of(config: ModelConfig) -> Layout:
    """The modules of a network, and their names in a checkpoint."""
    return family_of(config).layout(config)
