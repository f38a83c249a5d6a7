"""Names on disk of the modules of a first-generation network, however many layers it has."""

from __future__ import annotations

from functools import cache

from qwartet.checkpoint.layout import Layout
from qwartet.models.families import layout_of, parse_config
from qwartet.models.shapes import SHAPES, config_json


@cache
def published_layout() -> Layout:
    """The layout of the 72B shape, which has the most layers."""
    from pathlib import Path

    return layout_of(parse_config(config_json(SHAPES["72b"], None), Path("config.json")))


def disk_name(module: str) -> str:
    return published_layout()[module].disk_name


def disk_parameter_name(parameter: str) -> str:
    return published_layout().parameter_name(parameter)
