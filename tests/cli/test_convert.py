"""`qwartet convert`: result on stdout, failures in one line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwartet.checkpoint import stream_writer
from tests.cli.command_line import CommandLine, listing
from tests.tiny_checkpoint import Copy


def test_the_verb_says_what_it_wrote_and_the_error_of_loading_names_it(
    qwartet: CommandLine, checkpoint: Copy, tmp_path: Path
) -> None:
    directory = checkpoint()
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    error = qwartet("chat", directory, "hello")
    error.assert_one_line_error(f"qwartet convert {directory} NEW-DIRECTORY")
    before = listing(directory)
    outcome = qwartet("convert", directory, tmp_path / "converted")
    assert outcome.code == 0 and outcome.out.startswith(f"{tmp_path}/converted: ") and outcome.out.count("\n") == 1
    report = json.loads(qwartet("convert", directory, tmp_path / "again", "--json").out)
    assert report["files"] == ["model.safetensors"] and report["target"] == str(tmp_path / "again")
    assert "; peak memory " in outcome.out and report["peak_rss_bytes"] > 2**20
    assert listing(directory) == before
    assert qwartet("inspect", tmp_path / "converted").code == 0
    qwartet("convert", directory, tmp_path / "again").assert_one_line_error("exists; choose another name")


def test_to_qwen2_and_back(qwartet: CommandLine, pristine, tmp_path: Path) -> None:
    source, there, back = pristine(bits=4), tmp_path / "there", tmp_path / "back"
    outcome = qwartet("convert", source, there, "--to", "qwen2", "--context", "1K")
    lines = outcome.out.splitlines()
    assert outcome.code == 0 and lines[0].startswith(f"{there}: ") and " in 1 files, converted in " in lines[0]
    assert lines[1:] == ["Qwen2ForCausalLM, context 1024, MLP width 128"]
    report = json.loads(qwartet("convert", there, back, "--to", "qwen1", "--json").out)
    assert {name: report[name] for name in ("layout", "files", "context", "mlp_width", "target")} == {
        "layout": "qwen1", "files": ["model.safetensors"], "context": 2048, "mlp_width": 128, "target": str(back),
    }  # fmt: skip
    assert qwartet("inspect", back).code == 0
    qwartet("convert", source, there, "--to", "qwen2").assert_one_line_error("exists; choose another name")
    qwartet("convert", there, tmp_path / "x", "--to", "qwen2").assert_one_line_error("model_type is 'qwen2'")
    qwartet("convert", source, tmp_path / "x", "--to", "qwen1").assert_one_line_error("there is nothing to convert")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "there"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--context", "1k"], "--context has no effect with --to safetensors"),
        (["--to", "qwen1", "--context", "1k"], "--context has no effect with --to qwen1"),
        (["--to", "qwen1", "--pad-for-tensor-parallel", "2"], "--pad-for-tensor-parallel has no effect"),
        (["--to", "qwen1", "--chat-format", "raw"], "--chat-format has no effect"),
        (["--checkpoint-format", "gptq"], "--checkpoint-format has no effect with --to safetensors"),
        (["--to", "qwen2", "--context", "3k"], "--context is 3000; it must be between 2 and 2048"),
        (["--to", "qwen2", "--pad-for-tensor-parallel", "2"], "must divide the model's 1 attention heads"),
        (["--to", "qwen2", "--checkpoint-format", "gptq"], "is not GPTQ; leave it out"),
        (["--to", "gguf"], "'gguf' is not one of"),
        ([], "there is nothing to convert (--to qwen2 changes the layout)"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    qwartet: CommandLine, pristine, tmp_path: Path, arguments: list[str], words: str
) -> None:
    qwartet("convert", pristine(), tmp_path / "x", *arguments).assert_one_line_error(words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_nothing(
    qwartet: CommandLine, pristine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    given = signal.signal(number, signal.SIG_DFL)  # nohup, for one, lets a process ignore SIGHUP
    before = signal.getsignal(number)
    monkeypatch.setattr(stream_writer, "flush", lambda _path: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as caught:
        qwartet("convert", pristine(), tmp_path / "x", "--to", "qwen2")
    assert caught.value.code == 128 + number and not list(tmp_path.iterdir())
    assert signal.getsignal(number) is before
    signal.signal(number, given)


def test_losses_are_told_in_chinese(qwartet: CommandLine, checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint()
    config = json.loads((directory / "config.json").read_text()) | {"seq_length": 512}
    (directory / "config.json").write_text(json.dumps(config))
    outcome = qwartet("--lang", "zh", "convert", directory, tmp_path / "x", "--to", "qwen2", "--context", "2K")
    assert outcome.code == 0 and outcome.err.count("\n") >= 2 and "没有 LogN" in outcome.err and "512" in outcome.err
    assert "no LogN" not in outcome.err and "the context" not in outcome.err
