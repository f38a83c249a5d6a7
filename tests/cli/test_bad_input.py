"""Whatever is wrong with what a user gives: exit code 2, one line, no traceback, no file changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwartet.models import residency
from tests.cli.command_line import CommandLine, listing, run_in_process
from tests.tiny_checkpoint import write_tiny_checkpoint


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (lambda d: (d / "model-00002-of-00002.safetensors").unlink(), "1 of 2 shards missing"),
    "shard that is cut": (lambda d: cut(d / "model-00001-of-00002.safetensors"), "fetch this file again"),
    "unknown model type": (lambda d: edit_json(d / "config.json", model_type="llama"), "model_type is 'llama'"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json: file is missing"),
    "config that is no JSON": (lambda d: cut(d / "config.json"), "is not valid JSON"),
    "config of another size": (lambda d: edit_json(d / "config.json", num_hidden_layers=3), "missing tensors: "),
    "vocabulary that is cut": (lambda d: cut(d / "qwen.tiktoken"), "line "),
    "absurd size": (lambda d: edit_json(d / "config.json", num_hidden_layers=10**9), "num_hidden_layers"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(qwartet: CommandLine, tmp_path: Path, damage: str) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", sharded=True)
    harm, fragment = DAMAGES[damage]
    harm(directory)
    before = listing(tmp_path)
    qwartet("chat", directory, "hello").assert_one_line_error(str(directory), fragment)
    assert listing(tmp_path) == before


def test_a_wrong_path_is_one_line_with_a_suggestion(qwartet: CommandLine, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "tiny-chat")
    qwartet("chat", tmp_path / "tiny-chta", "hello").assert_one_line_error(f"did you mean {tmp_path / 'tiny-chat'}?")
    qwartet("chat", tmp_path / "tiny-chat" / "config.json", "hello").assert_one_line_error("is not a directory")


def test_too_little_memory_is_one_line(qwartet: CommandLine, chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "available_bytes", lambda device: 1000)
    qwartet("chat", chat_model, "hello", "--dtype", "fp32").assert_one_line_error(
        "the weights need", "GiB are free", "--force"
    )


def test_a_base_model_is_one_line_and_does_not_chat(qwartet: CommandLine, base_model: Path) -> None:
    qwartet("chat", base_model, "hello").assert_one_line_error("is a base model", "use a -Chat checkpoint")


@pytest.mark.parametrize("is_file", [True, False])
def test_a_model_that_does_not_say_whether_it_chats_is_told_how_to_say_it_and_then_chats(
    qwartet: CommandLine, chat_model: Path, tmp_path: Path, is_file: bool
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    path = directory / "generation_config.json"
    if is_file:
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_text()).items() if "chat" not in key})
        )
    else:
        path.unlink()
    outcome = qwartet("chat", directory, "hello", "--greedy", "--max-tokens", "4")
    assert outcome.code == 2 and "error: " in outcome.err and "base model" not in outcome.err
    assert "chat_format is missing in its generation_config.json" in outcome.err
    assert "set --chat-format chatml" in outcome.err
    assert "chat or base unknown (chat_format is not set)" in qwartet("inspect", directory).out
    assert "chat or base unknown (chat_format is not set)" in qwartet("show", directory).out
    answers = [
        qwartet("chat", model, "hello", "--greedy", "--max-tokens", "4", "--repetition-penalty", "1", *options)
        for model, options in ((directory, ["--chat-format", "chatml"]), (chat_model, []))
    ]
    assert answers[0].code == 0 and answers[0].out == answers[1].out


@pytest.mark.parametrize(("key", "name"), [("visual", "Qwen-VL"), ("audio", "Qwen-Audio")])
def test_a_model_that_sees_or_hears_is_called_that_by_every_verb(
    qwartet: CommandLine, tmp_path: Path, key: str, name: str
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    edit_json(directory / "config.json", **{key: {"width": 8}})
    qwartet("chat", directory, "hello").assert_one_line_error(name, "use one of those")
    assert name in qwartet("show", directory).out
    assert name in qwartet("inspect", directory).out


def test_an_adapter_is_called_that_by_every_verb(qwartet: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    for verb in (("chat", tmp_path, "hello"), ("show", tmp_path), ("plan", tmp_path)):
        qwartet(*verb).assert_one_line_error("holds a LoRA adapter", "merge it into its base model")
    assert "holds a LoRA adapter" in qwartet("inspect", tmp_path).out


def test_a_gguf_file_is_called_that_by_every_verb(qwartet: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "qwen.gguf").write_bytes(b"GGUF")
    for verb in (("chat", tmp_path, "hello"), ("plan", tmp_path)):
        qwartet(*verb).assert_one_line_error("holds 'qwen.gguf', a GGUF file", "the checkpoint that it was made from")
    assert "a GGUF file" in qwartet("inspect", tmp_path).out


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "2"], "top_p"),
        (["--max-tokens", "0"], "max_tokens"),
        (["--seed", "-1"], "seed"),
        (["--greedy", "--temperature", "0.5"], "--greedy contradicts"),
        (["--max-model-len", "32kk"], "write 4096, 32k"),
        (["--max-model-len", "1M"], "2048"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--device", "cuda:99"], "torch sees"),
        (["--revision", "main"], "a revision needs a hub id"),
        (["--prompt", "again"], "given twice"),
    ],
)
def test_a_setting_out_of_bounds_is_one_line(
    qwartet: CommandLine, chat_model: Path, options: list[str], fragment: str
) -> None:
    qwartet("chat", chat_model, "hello", *options).assert_one_line_error(fragment)


def test_a_prompt_beyond_the_context_is_one_line(qwartet: CommandLine, chat_model: Path) -> None:
    outcome = qwartet("chat", chat_model, "the question " * 2000, "--quiet")
    outcome.assert_one_line_error("tokens", "shorten the prompt")


def test_a_model_that_is_not_downloaded_is_one_line_when_offline() -> None:
    run_in_process("chat", "Somebody/Nothing", "hello").assert_one_line_error("Somebody/Nothing", "HF_HUB_OFFLINE")
    run_in_process("inspect", "Somebody/Nothing").assert_one_line_error("downloads it")
