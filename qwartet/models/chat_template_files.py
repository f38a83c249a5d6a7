"""Where a checkpoint keeps its chat template.

    chat_template.jinja              newer checkpoints: the template as it is
    chat_template.json               some of those in between: under the key chat_template
    tokenizer_config.json            older ones: under that key, one template, or a list of named ones
    chat_templates/tool_use.jinja    the one for conversations with tools, where there are two

The first of them that exists is used, as in transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json, read_text
from qwartet.errors import CheckpointError

TEMPLATE_FILE, TEMPLATE_JSON_FILE, SETTINGS_FILE = "chat_template.jinja", "chat_template.json", "tokenizer_config.json"
TOOL_TEMPLATE_FILE = "chat_templates/tool_use.jinja"


class TemplateSource(NamedTuple):
    """The source of a template, its file, and the source of the one for tools, if there are two."""

    path: Path
    default: str
    tool_use: str | None


def template_source(directory: Path) -> TemplateSource | None:
    """The chat template of a directory, valid or not; None where there is none, CheckpointError for a broken file."""
    tools = directory / TOOL_TEMPLATE_FILE
    tool_use = read_text(tools) if has_file(tools) else None
    path = directory / TEMPLATE_FILE
    if has_file(path):
        return TemplateSource(path, read_text(path), tool_use)
    for path in (directory / TEMPLATE_JSON_FILE, directory / SETTINGS_FILE):
        given = read_json(path).get("chat_template") if has_file(path) else None
        if given is not None:
            default, other = _named(given, path)
            return TemplateSource(path, default, other or tool_use)
    return None


def _named(given: Any, path: Path) -> tuple[str, str | None]:
    """The template, or the two of a list of named ones."""
    if isinstance(given, str):
        return given, None
    parts = given if isinstance(given, list) else []
    named: dict[str, str] = {}
    for part in parts:
        name, source = (part.get("name"), part.get("template")) if isinstance(part, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(source, str):
            break
        named[name] = source
    if "default" not in named or len(named) < len(parts):
        reason = f"chat_template is {given!r:.80}; it must be a text, or a list with one named default"
        raise CheckpointError(path, reason, hint="download it again")
    return named["default"], named.get("tool_use")
