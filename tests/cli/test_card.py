"""`qwartet card`: the whole of it on the bundled model, and what it refuses."""

from __future__ import annotations

import json

import pytest

from qwartet import DEMO
from recipes.demo import benchmarks
from tests.cli.command_line import CommandLine


def test_a_card_of_the_bundled_model(qwartet: CommandLine, tmp_path) -> None:
    benchmarks.write(tmp_path / "data", 20)
    outcome = qwartet(
        "card", str(DEMO), "--out", str(tmp_path / "card"), "--data", str(tmp_path / "data"), "--tasks", "gsm8k,tools",
        "--profile-options", "--contexts 1 --generate 8", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    files = json.loads(outcome.out)["files"]
    assert files[0] == str(tmp_path / "card" / "card.html") and len(files) == 4
    text = (tmp_path / "card" / "card.md").read_text(encoding="utf-8")
    assert "很高兴为你提供帮助" in text and "Data: other data than the published." in text
    assert "| demo, 0-shot (measured) | 100.0 (83.9 to 100.0) | 20 |" in text
    assert "roofline.svg" in text and "needle.svg" not in text
    again = qwartet("card", "--collect", "--out", str(tmp_path / "card"))
    assert again.code == 0 and (tmp_path / "card" / "card.md").read_text(encoding="utf-8") == text


def test_the_published_tables(qwartet: CommandLine) -> None:
    text = qwartet("card", "--published").out
    assert "| Int4 | 73.4 | 80.1 | 75.3 | 61.6 |" in text and "11.67" in text and "Source: model card" in text
    tables = json.loads(qwartet("card", "--published", "--json").out)["tables"]
    assert {table["id"] for table in tables} >= {"quantization-72b", "speed", "leval", "needle"}
    assert "来源：Qwen-72B-Chat-Int4 模型卡" in qwartet("--lang", "zh", "card", "--published").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no model named"),
        (("--collect", "--out", "absent"), "absent/card.json cannot be read"),
        ((str(DEMO), "--shots", "0,x"), "--shots has 'x'"),
        ((str(DEMO), "--evaluate-options", '--limit "3'), "--evaluate-options cannot be read"),
        (("no/such/model",), "no/such/model"),
    ],
)
def test_what_it_refuses(arguments: tuple[str, ...], message: str, qwartet: CommandLine, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    qwartet("card", *arguments).assert_one_line_error(message)
