"""`qwartet finetune` and `qwartet merge` from end to end, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet.cli.main import run
from tests.finetune.runs import conversations, turn, write_data
from tests.tiny_checkpoint import Copy

FEW = ["--num_train_epochs", "1", "--lora_r", "4", "--model_max_length", "64", "--device", "cpu"]


def test_an_adapter_is_trained_merged_and_chats(
    pristine: Copy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out, merged = write_data(tmp_path / "data.json"), str(tmp_path / "out"), str(tmp_path / "merged")
    arguments = ["finetune", str(pristine()), "--data_path", str(data), "--output_dir", out, "--tensorboard", *FEW]
    assert run([*arguments, "--eval_data", str(data), "--json"]) == 0
    captured = capfd.readouterr()
    summary = json.loads(captured.out)
    assert summary["steps"] == 1 and summary["trained_parameters"] == 12288
    assert {"adapter_model.safetensors", "log.jsonl", "loss.png", "runs"} <= set(summary["files"])
    assert "1 / 1: epoch 1.00, loss" in captured.err
    assert run(arguments) == 2
    assert "holds an earlier run; resume it with --resume" in capfd.readouterr().err
    assert run(["merge", out, "--output", merged]) == 0
    assert "10 linears merged, 0 modules replaced" in capfd.readouterr().out
    assert run(["chat", merged, "--prompt", "hello", "--max-tokens", "2"]) == 0


def test_wrong_data_and_settings_are_said_in_one_line_also_in_chinese(
    pristine: Copy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = conversations(2)
    bad[1]["conversations"].append(turn("assistant", "b"))
    data = write_data(tmp_path / "data.json", bad)
    arguments = ["finetune", str(pristine()), "--data", str(data), "--output", str(tmp_path / "out")]
    assert run(arguments) == 2
    error = capfd.readouterr().err
    assert "entry 1 (id 'c1'): turn 3, of assistant, follows another turn of assistant; fix or remove these: 1" in error
    assert run(["--lang", "zh", *arguments]) == 2
    assert "第 3 轮（assistant）之前也是 assistant 轮次；请修正或删除：2 个样本中有 1 个有误" in capfd.readouterr().err
    assert run([*arguments, "--lora_dropout", "2"]) == 2
    assert "lora_dropout is 2.0; it must be 0 or more, and below 1" in capfd.readouterr().err
    assert run([*arguments, "--deepspeed", "zero2.json"]) == 2
    assert "--deepspeed needs deepspeed; install it" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
