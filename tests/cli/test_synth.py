"""`qwartet synth`: the options reach the writer; result on stdout, progress on stderr, failures in one line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwartet import files as whole_files
from qwartet.bench import synth as writer
from qwartet.models.shapes import SHAPES
from tests.bench.tiny_shape import TINY
from tests.cli.command_line import CommandLine, environment
from tests.tiny_checkpoint import tiny_vocabulary


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "1.8b", TINY)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_without_options_it_is_published_int4_and_the_result_is_one_line(qwartet: CommandLine, tmp_path: Path) -> None:
    outcome = qwartet("synth", "1.8b", tmp_path / "model")
    assert outcome.code == 0
    assert outcome.out.startswith(f"{tmp_path}/model: 1.8b int4, 2 layers, random weights (seed 0); ")
    assert outcome.out.count("\n") == 1
    settings = read_json(tmp_path / "model/quantize_config.json")
    assert (settings["bits"], settings["group_size"], settings["desc_act"]) == (4, 128, False)


def test_what_it_wrote_has_no_problem(qwartet: CommandLine, tmp_path: Path) -> None:
    tiny_vocabulary().save(tmp_path / "qwen.tiktoken")
    qwartet("synth", "1.8b", tmp_path / "model", "--vocabulary", tmp_path / "qwen.tiktoken")
    outcome = qwartet("inspect", tmp_path / "model")
    assert outcome.code == 0 and "warning" not in outcome.out and outcome.out.endswith("no problems found\n")


def test_the_options_are_the_settings_of_the_checkpoint(qwartet: CommandLine, tmp_path: Path) -> None:
    options = ["--precision", "int8", "--group-size", "64", "--desc-act", "--layers", "1", "--shard-size", "300k"]
    assert qwartet("synth", "1.8b", tmp_path / "model", *options).code == 0
    settings = read_json(tmp_path / "model/quantize_config.json")
    assert (settings["bits"], settings["group_size"], settings["desc_act"]) == (8, 64, True)
    assert read_json(tmp_path / "model/config.json")["num_hidden_layers"] == 1
    assert len(list((tmp_path / "model").glob("model-*-of-*.safetensors"))) > 1


def test_awq_is_written_like_autoawq_does_and_has_no_problem(qwartet: CommandLine, tmp_path: Path) -> None:
    tiny_vocabulary().save(tmp_path / "qwen.tiktoken")
    options = ["--format", "awq", "--vocabulary", tmp_path / "qwen.tiktoken", "--json"]
    assert json.loads(qwartet("synth", "1.8b", tmp_path / "model", *options).out)["format"] == "awq"
    embedded = read_json(tmp_path / "model/config.json")["quantization_config"]
    assert (embedded["quant_method"], embedded["version"], embedded["zero_point"]) == ("awq", "gemm", True)
    assert not (tmp_path / "model/quantize_config.json").exists()
    outcome = qwartet("inspect", tmp_path / "model")
    assert outcome.code == 0 and "warning" not in outcome.out and outcome.out.endswith("no problems found\n")
    assert "AWQ, 4 bits, groups of 128, asymmetric, zeros stored as v2; 10 of 10 linear layers are sound" in outcome.out
    assert "AWQ, 4 bits, groups of 128, asymmetric" in qwartet("show", tmp_path / "model").out
    assert qwartet("plan", tmp_path / "model").code == 0


def test_bf16_is_a_float_checkpoint(qwartet: CommandLine, tmp_path: Path) -> None:
    assert qwartet("synth", "1.8b", tmp_path / "model", "--precision", "bf16").code == 0
    assert not (tmp_path / "model/quantize_config.json").exists()


def test_json_is_one_object_that_names_the_files(qwartet: CommandLine, tmp_path: Path) -> None:
    report = json.loads(qwartet("synth", "1.8b", tmp_path / "model", "--seed", "3", "--json").out)
    assert report["files"] == ["model.safetensors"]
    assert (report["shape"], report["precision"], report["layers"], report["seed"]) == ("1.8b", "int4", 2, 3)
    assert 0 <= (tmp_path / "model/model.safetensors").stat().st_size - report["bytes"] < 16_384  # the header


def test_progress_is_on_stderr_a_line_for_each_tenth(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SLICE_BYTES", 4096)
    lines = qwartet("synth", "1.8b", tmp_path / "model").err.splitlines()
    assert len(lines) == 10
    assert all(line.endswith(" written") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["3b"], ["'3b'", "1.8b"]),
        (["1.8b", "--layers", "0"], ["--layers is 0", "between 1 and 2"]),
        (["1.8b", "--layers", "3"], ["--layers is 3", "between 1 and 2"]),
        (["1.8b", "--precision", "bf16", "--desc-act"], ["belong to GPTQ"]),
        (["1.8b", "--group-size", "0"], ["group_size is 0"]),
        (
            ["1.8b", "--format", "awq", "--group-size", "100"],
            ["group_size 100 does not divide the 256 inputs of a linear"],
        ),
        (["1.8b", "--format", "awq", "--precision", "int8"], ["bits is 8; AWQ is supported at 4 bits"]),
        (["1.8b", "--format", "gguf"], ["'gguf'"]),
        (["1.8b", "--shard-size", "big"], ["'big' is not a whole number"]),
        (["1.8b", "--seed", "-1"], ["seed is -1"]),
        (["1.8b", "--vocabulary", "/nowhere"], ["/nowhere"]),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(
    qwartet: CommandLine, tmp_path: Path, arguments: list[str], fragments: list[str]
) -> None:
    shape, *options = arguments
    qwartet("synth", shape, tmp_path / "model", *options).assert_one_line_error(*fragments)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_empty_is_refused(qwartet: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("keep")
    qwartet("synth", "1.8b", tmp_path).assert_one_line_error("is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_too_little_space_is_one_line_with_both_figures(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 10**9}))
    qwartet("synth", "72b", tmp_path / "model").assert_one_line_error("needs 41.3 GB", "1.0 GB are free")


def test_ctrl_c_exits_with_130_and_leaves_nothing(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_write_shard", stop)
    outcome = qwartet("synth", "1.8b", tmp_path / "model")
    assert (outcome.code, outcome.out) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_its_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from qwartet.cli.main import run; run(['synth', '--help'])\n"
        "print([name for name in ('torch', 'gguf', 'huggingface_hub') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert ast.literal_eval(result.stderr) == []
    assert "Usage: qwartet synth " in result.stdout
