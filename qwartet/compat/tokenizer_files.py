"""tokenizer_config.json and special_tokens_map.json: what a checkpoint says about its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.compat.batch_encoding import NO_LIMIT
from qwartet.compat.token_roles import ROLES, surface_form
from qwartet.errors import CheckpointError
from qwartet.tokenizer.tiktoken_tokenizer import ERROR_HANDLERS
from qwartet.tokenizer.vocabulary import ENDOFTEXT, SPECIAL_TOKENS

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
SETTINGS = (*ROLES, "padding_side", "truncation_side", "model_max_length", "errors")


def read_settings(directory: Path) -> dict[str, Any]:
    """The supported settings of a tokenizer_config.json; none if there is no such file."""
    path = directory / CONFIG_FILE
    if not has_file(path):
        return {}
    config = read_json(path)
    settings = {key: config[key] for key in SETTINGS if config.get(key) is not None}
    limit = settings.get("model_max_length", NO_LIMIT)
    checks = {
        "model_max_length": isinstance(limit, int) and limit >= 1,
        "padding_side": settings.get("padding_side", "right") in ("left", "right"),
        "truncation_side": settings.get("truncation_side", "right") in ("left", "right"),
        "errors": settings.get("errors", "replace") in ERROR_HANDLERS,
        **{role: surface_form(settings.get(role, ENDOFTEXT)) in SPECIAL_TOKENS for role in ROLES},
    }
    for key, is_good in checks.items():
        if not is_good:
            raise CheckpointError(path, f"{key} is {settings[key]!r}", hint="fix it, or remove the line")
    return settings


def write_settings(directory: Path, settings: Mapping[str, Any], roles: Mapping[str, str]) -> tuple[str, str]:
    """Writes both files, which read_settings reads, into a directory; returns their paths."""
    config = {**settings, "tokenizer_class": "QWenTokenizer", **roles}
    for name, content in ((CONFIG_FILE, config), (SPECIAL_TOKENS_FILE, roles)):
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(directory / CONFIG_FILE), str(directory / SPECIAL_TOKENS_FILE)
