"""`qwartet doctor`: facts about the machine, and what stands in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet.bench import machine
from tests.cli.command_line import CommandLine


@pytest.fixture(autouse=True)
def bundled(chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DEMO", chat_model)
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def examined(qwartet: CommandLine) -> dict[str, Any]:
    outcome = qwartet("doctor", "--json")
    content = json.loads(outcome.out)
    assert outcome.code == (1 if content["problems"] else 0), outcome
    return content


def test_the_facts_are_those_of_this_machine(qwartet: CommandLine) -> None:
    content = examined(qwartet)
    assert content["versions"]["torch"] == torch.__version__
    assert content["processor"]["usable_cores"] == len(os.sched_getaffinity(0))
    assert 0 < content["memory"]["available"] <= content["memory"]["total"]
    assert len(content["gpus"]) == torch.cuda.device_count()
    assert content["kernels"]["cpu"]["quantized linear"]


def test_the_text_names_every_part(qwartet: CommandLine) -> None:
    out = qwartet("doctor").out
    labels = (
        "qwartet",
        "python",
        "packages",
        "processor",
        "memory",
        "GPUs",
        "kernels, cpu",
        "bundled model",
        "environment",
    )
    assert [line for line in labels if f"\n{line}" not in f"\n{out}"] == []
    assert f"torch {torch.__version__}" in out


def test_the_bundled_model_is_tried(qwartet: CommandLine) -> None:
    assert examined(qwartet)["bundled_model"].startswith("loads and answers")


def test_a_bundled_model_that_is_missing_or_broken_is_a_problem(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "DEMO", tmp_path)
    assert any("the bundled model is missing" in text for text in examined(qwartet)["problems"])
    (tmp_path / "config.json").write_text("{}")
    content = examined(qwartet)
    assert content["bundled_model"] == "does not load"
    assert any(str(tmp_path) in text for text in content["problems"])


def test_variables_that_matter_are_shown_and_secrets_are_not(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/big/disk")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert examined(qwartet)["environment"] == {"HF_HOME": "/big/disk", "HF_TOKEN": "(set)"}
    assert "hf_secret" not in qwartet("doctor").out


def test_settings_that_harm_are_problems(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    problems = examined(qwartet)["problems"]
    assert any("OMP_NUM_THREADS is 4096" in text for text in problems)
    assert any("HF_ENDPOINT is 'hub.example'" in text for text in problems)


def test_a_package_that_is_missing_or_too_old_is_a_problem(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = ["torch>=9999", "nothing-of-this-name>=1", "numpy>=1", 'triton>=1; extra == "gpu"']
    monkeypatch.setattr(machine.metadata, "requires", lambda _: requirements)
    problems = examined(qwartet)["problems"]
    assert any(text.startswith(f"torch is {torch.__version__}; run: pip install 'torch>=9999'") for text in problems)
    assert any(text.startswith("nothing-of-this-name is not installed") for text in problems)
    assert len(problems) == 2


def test_kernels_that_are_missing_are_a_problem_unless_that_was_asked_for(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwartet.kernels.cpu.library.unavailable_reason", lambda: "install a C++ compiler")
    monkeypatch.delenv("QWARTET_CPU_ISA", raising=False)
    assert any("kernels are missing" in text and "C++ compiler" in text for text in examined(qwartet)["problems"])
    assert qwartet("doctor").code == 1
    monkeypatch.setenv("QWARTET_CPU_ISA", "none")
    assert not any("kernels" in text for text in examined(qwartet)["problems"])


def test_a_torch_that_cannot_be_imported_is_a_problem(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    content = examined(qwartet)
    assert any("torch cannot be imported" in text for text in content["problems"])
    assert content["memory"]["total"] > 0
