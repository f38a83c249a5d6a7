"""Which family does a checkpoint belong to? The list of families, and the queries that go through a family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG, adapter_error, check_not_gguf
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.tied_head import as_stored
from qwartet.errors import SettingError
from qwartet.models.config import ModelConfig
from qwartet.models.family import Family
from qwartet.models.model_types import MODEL_TYPES, checked_model_type
from qwartet.models.qwen1 import QWEN1
from qwartet.models.qwen2 import QWEN2
from qwartet.models.qwen3 import QWEN3

FAMILIES: dict[str, Family] = {family.model_type: family for family in (QWEN1, QWEN2, QWEN3)}
assert tuple(FAMILIES) == MODEL_TYPES, "the list for code that does not load torch"


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig from the content of a config.json; CheckpointError for an unknown family, or from the known one."""
    return FAMILIES[checked_model_type(raw, path)].parse_config(raw, path)


def load_config(directory: Path) -> ModelConfig:
    """ModelConfig of a checkpoint directory."""
    path = directory / "config.json"
    if not has_file(path):
        if has_file(directory / ADAPTER_CONFIG):
            raise adapter_error(directory)
        check_not_gguf(directory)
    return parse_config(read_json(path), path)


def check_first_generation(config: ModelConfig, directory: Path, what: str) -> None:
    """SettingError for a model of another family, where `what` ("fine-tuning") supports none yet."""
    if config.family != QWEN1.model_type:
        reason = f"{what} supports first-generation Qwen models only, and this one's model_type is {config.family!r}"
        raise SettingError(f"{directory}: {reason}; use such a model")


def family_of(config: ModelConfig) -> Family:
    """The family that a config was parsed by."""
    return FAMILIES[config.family]


def layout_of(config: ModelConfig, checkpoint: Checkpoint | None = None) -> Layout:
    """The modules of a network, and their names in a checkpoint: in this one, if it is passed.

    The two differ only where a network with tied embeddings has an output head in its files as well.
    """
    layout = family_of(config).layout(config)
    return layout if checkpoint is None else as_stored(layout, checkpoint)
