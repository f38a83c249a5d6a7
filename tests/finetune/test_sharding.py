"""Sharded training: two processes on the CPU compute what one does, with half of the parameters each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet.errors import SettingError
from qwartet.finetune.sharding import check_method, requested_sharding
from tests.finetune.runs import run, tensors_of, write_data
from tests.golden_data import REPOSITORY
from tests.tiny_checkpoint import Copy

RECIPES = REPOSITORY / "recipes" / "finetune"


def fsdp_environment() -> dict[str, str]:
    """What `accelerate launch` passes on of the configuration that we ship."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--config_file", str(RECIPES / "fsdp2.yaml"), "-m", "qwartet", "finetune"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(given))
    found = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in found.items() if "FSDP" in name}


def two_processes(base: Path, output: Path, data: Path, method: str, *options: str, **environment: str) -> list[Any]:
    """The lines of JSON that a run of `qwartet finetune` in two processes prints."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [
        *launcher, "tests.finetune.sharded", str(base), "--data", str(data), "--output", str(output),
        "--method", method, "--dtype", "fp32",
        "--learning-rate", "1e-2", "--num-train-epochs", "1", "--model-max-length", "64",
        "--per-device-train-batch-size", "2", "--gradient-accumulation-steps", "1", "--lora-r", "4",
        "--lora-dropout", "0", "--device", "cpu", "--json", *options,
    ]  # fmt: skip
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check_same(lines: list[Any], expected: Any, output: Path) -> None:
    """The losses to 1e-5, and the result to a rounding."""
    [summary] = [line for line in lines if "losses" in line]
    assert summary["tokens"] == expected.tokens
    assert summary["trained_parameters"] == expected.trained_parameters
    for (_, loss), (_, other) in zip(summary["losses"], expected.losses, strict=True):
        assert loss == pytest.approx(other, abs=1e-5)
    ours, theirs = tensors_of(output), tensors_of(Path(expected.output))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].float(), tensor.float(), rtol=2**-7, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "is_sharded"), [("full", True), ("lora", True), ("lora", False)])
def test_two_processes_give_the_losses_of_one_and_have_half_of_the_parameters_each_with_fsdp(
    pristine: Copy, tmp_path: Path, method: Any, is_sharded: bool
) -> None:
    data, output = write_data(tmp_path / "data.json"), tmp_path / "two"
    expected = run(pristine(), tmp_path / "one", data, method, num_train_epochs=1, lora_dropout=0.0)
    lines = two_processes(pristine(), output, data, method, **(fsdp_environment() if is_sharded else {}))
    shares = [line for line in lines if "own" in line]
    assert len(shares) == 2 and all((one["not_sharded"] == 0) == is_sharded for one in shares)
    assert all(one["own"] == one["all"] / (2 if is_sharded else 1) for one in shares)
    check_same(lines, expected, output)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "stage"), [("full", 2), ("full", 3), ("lora", 3)])
def test_two_processes_with_deepspeed_give_the_losses_of_one(
    pristine: Copy, tmp_path: Path, method: Any, stage: int
) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install deepspeed")
    data, output = write_data(tmp_path / "data.json"), tmp_path / "two"
    expected = run(pristine(), tmp_path / "one", data, method, num_train_epochs=1, lora_dropout=0.0)
    options = ("--deepspeed", str(RECIPES / f"zero{stage}.json"))
    lines = two_processes(pristine(), output, data, method, *options, DS_ACCELERATOR="cpu")
    check_same(lines, expected, output)


def test_the_configuration_that_we_ship_asks_for_fsdp_2_by_block() -> None:
    found = fsdp_environment()
    assert found["ACCELERATE_USE_FSDP"] == "true" and found["FSDP_VERSION"] == "2"
    assert found["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "QWenBlock"


def test_fsdp_in_one_process_is_an_error(pristine: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in fsdp_environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match="FSDP shards over several processes, and this is one; start it with"):
        run(pristine(), tmp_path / "out", write_data(tmp_path / "data.json"))


def test_what_the_launcher_shards_is_read_from_its_environment_and_from_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert requested_sharding(None) is None
    assert requested_sharding(RECIPES / "zero2.json") == "zero2"
    assert requested_sharding(RECIPES / "zero3.json") == "zero3"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert requested_sharding(None) == "zero3"
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(RECIPES / "zero2.json"))
    assert requested_sharding(None) == "zero2"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert requested_sharding(None) == "fsdp"


def test_combinations_that_the_published_scripts_refuse_or_warn_of_are_errors() -> None:
    with pytest.raises(SettingError, match="ZeRO-3 cannot be used for LoRA on a base model"):
        check_method("lora", "zero3", trains_whole_modules=True)
    for sharding, name in (("fsdp", "FSDP"), ("zero3", "ZeRO-3")):
        with pytest.raises(SettingError, match=f"{name} cannot shard quantised weights; use ZeRO-2, or --method lora"):
            check_method("qlora", sharding, trains_whole_modules=False)  # type: ignore[arg-type]
    for method, sharding in (
        ("lora", "zero2"),
        ("lora", "fsdp"),
        ("full", "zero3"),
        ("qlora", "zero2"),
        ("full", None),
    ):
        check_method(method, sharding, trains_whole_modules=True)  # type: ignore[arg-type]
