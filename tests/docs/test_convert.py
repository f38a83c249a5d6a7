"""The example of docs/convert.md runs, on a converted tiny checkpoint, and its table of groups is what is computed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwartet.convert.to_qwen2 import convert_to_qwen2, padded_width
from qwartet.models.config import ModelConfig
from qwartet.models.families import parse_config
from qwartet.models.shapes import SHAPES, config_json, gptq_config
from tests.documents import blocks, prose

DOCUMENT = "docs/convert.md"


def config_of(size: str) -> ModelConfig:
    return parse_config(config_json(SHAPES[size], None), Path("config.json"))  # type: ignore[index]


def test_the_example_runs(
    pristine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_to_qwen2(pristine(), tmp_path / "OUT")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(DOCUMENT, "python")
    exec(compile(code, DOCUMENT, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_groups_of_each_size_are_those_that_padding_gives() -> None:
    rows = re.findall(r"^\| ([\d.]+B) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", prose(DOCUMENT), re.MULTILINE)
    assert [row[0].lower() for row in rows] == list(SHAPES)
    for size, *groups in rows:
        config, gptq = config_of(size.lower()), gptq_config("int4")
        found = [padded_width(config, gptq, ranks) // 128 for ranks in (1, 2, 4, 8)]
        assert list(map(int, groups)) == found
