"""--lora on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qwartet.cli.adapters import adapter_directories
from qwartet.errors import SettingError
from tests.adapter_files import write_adapter
from tests.cli.command_line import CommandLine


def test_names_and_directories_are_read(tmp_path: Path) -> None:
    for name in ("a", "b=c"):
        (tmp_path / name).mkdir()
    given = [f"one={tmp_path / 'a'}", f"two={tmp_path / 'b=c'}"]
    assert adapter_directories(given) == {"one": tmp_path / "a", "two": tmp_path / "b=c"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["one"], "--lora is 'one'; write NAME=DIR"),
        (["=x"], "--lora is '=x'"),
        (["demo=."], "--lora 'demo' has a name that is taken"),
        (["a=.", "a=."], "--lora 'a' has a name that is taken"),
        (["a=/absent"], "--lora: /absent is not a directory"),
    ],
)
def test_anything_else_is_an_error(given: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        adapter_directories(given, ["demo"])


def test_serve_names_what_is_wrong_before_it_loads(qwartet: CommandLine, chat_model: Path) -> None:
    qwartet("serve", chat_model, "--port", 0, "--lora", f"{chat_model.name}=.").assert_one_line_error("is taken")
    qwartet("serve", chat_model, "--port", 0, "--lora", "a=/absent").assert_one_line_error("is not a directory")


def test_chat_answers_with_the_adapter(qwartet: CommandLine, pristine: Callable[..., Path], tmp_path: Path) -> None:
    base = pristine()
    adapter = write_adapter(tmp_path / "adapter", base, rank=4)
    options = ("--greedy", "--max-tokens", 12)
    plain = qwartet("chat", base, "hello", *options)
    adapted = qwartet("chat", base, "hello", "--lora", adapter, *options)
    assert adapted.code == 0 and "LoRA adapter of rank 4, 24.0 KiB" in adapted.err, adapted
    assert plain.code == 0 and plain.out != adapted.out
    qwartet("chat", base, "hello", "--lora", base).assert_one_line_error("adapter_config.json: file is missing")
    qwartet("chat", "hello", "--url", "http://localhost:1", "--lora", adapter).assert_one_line_error("--lora applies")


def test_a_batch_file_names_adapters_as_models(
    qwartet: CommandLine, pristine: Callable[..., Path], tmp_path: Path
) -> None:
    base = pristine()
    adapter = write_adapter(tmp_path / "adapter", base, rank=4)
    body = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 12}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {**body, "model": name}}
        for name in (base.name, "tuned", "other")
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ran = qwartet("run-batch", source, target, "--model", base, "--lora", f"tuned={adapter}")
    assert ran.code == 1 and "2 done, 1 failed" in ran.out, ran
    entries = {one["custom_id"]: one for one in map(json.loads, target.read_text(encoding="utf-8").splitlines())}
    said = {
        name: entries[name]["response"]["body"]["choices"][0]["message"]["content"] for name in (base.name, "tuned")
    }
    assert said[base.name] != said["tuned"]
