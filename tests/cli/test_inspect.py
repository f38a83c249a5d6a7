"""`qwartet inspect`: what a sound checkpoint holds, and every problem of a broken one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.command_line import CommandLine, listing
from tests.golden_data import golden_path, golden_root, real_vocabulary
from tests.tiny_checkpoint import write_tiny_checkpoint


def inspected(qwartet: CommandLine, directory: Path, *options: str) -> dict[str, Any]:
    outcome = qwartet("inspect", directory, "--json", *options)
    content = json.loads(outcome.out)
    assert outcome.err == "" and outcome.code == (2 if content["problems"] else 0), outcome
    return content


def edit_tensors(directory: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Replaces or adds tensors of a single-file checkpoint; None removes one."""
    path = directory / "model.safetensors"
    tensors: dict[str, torch.Tensor | None] = {**load_file(path), **changes}
    save_file({name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}, path)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("options", [{}, {"sharded": True}, {"bits": 4}, {"bits": 8, "sharded": True}])
def test_a_sound_checkpoint_has_no_problem(qwartet: CommandLine, tmp_path: Path, options: dict[str, Any]) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", **options)
    before = listing(directory)
    content = inspected(qwartet, directory)
    assert content["problems"] == content["warnings"] == []
    assert content["model"]["num_parameters"] == 361_856
    assert content["weights"]["num_files"] == (2 if "sharded" in options else 1)
    assert content["tokenizer"]["num_ranks"] + 208 == content["tokenizer"]["num_tokens"] == 512
    assert content["memory"]["kv_bytes_per_token"] == 2 * 2 * 128 * 2  # K and V, layers, head_dim, bytes of bf16
    assert content["memory"]["kv_bytes_full_context"] == 2048 * 1024
    quantization = content["quantization"]
    assert (quantization is None) is ("bits" not in options)
    if quantization is not None:
        assert (quantization["bits"], quantization["zero_format"]) == (options["bits"], ["v1"])
        assert quantization["num_sound_linears"] == quantization["num_linears"] == 10
    assert listing(directory) == before


def test_the_text_says_the_same_for_people(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", bits=4)
    (directory / "modeling_qwen.py").write_text("raise SystemExit")
    outcome = qwartet("inspect", directory)
    assert (outcome.code, outcome.err) == (0, "")
    for fragment in (
        "361.9 k parameters: 2 layers of 128",
        "context of 2048 tokens; NTK and LogN beyond 2048",
        "chat (ChatML); sampling defaults: temperature 1, top_k 0, top_p 0.8, repetition_penalty 1.1",
        "GPTQ, 4 bits, groups of 128, symmetric, desc_act false, zeros stored as v1; 10 of 10 linear layers are sound",
        "304 ranks, 512 ids; not the published vocabulary",
        "no problems found",
    ):
        assert fragment in outcome.out
    ignored = next(line for line in outcome.out.splitlines() if line.startswith("  ignored files"))
    assert "modeling_qwen.py" in ignored


def test_tensors_are_listed_on_demand(qwartet: CommandLine, chat_model: Path) -> None:
    names = set(load_file(chat_model / "model.safetensors"))
    assert {tensor["name"] for tensor in inspected(qwartet, chat_model, "--tensors")["tensors"]} == names
    assert "tensors" not in inspected(qwartet, chat_model)
    out = qwartet("inspect", chat_model, "--tensors").out
    assert all(f"  {name} " in out for name in names)


def test_the_published_vocabulary_is_recognised(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    (directory / "qwen.tiktoken").write_bytes(real_vocabulary().read_bytes())
    content = inspected(qwartet, directory)
    assert content["tokenizer"]["is_published"]
    assert any("vocab_size is 512, but the tokenizer has 151851 tokens" in text for text in content["problems"])


def test_all_problems_are_found_and_not_only_the_first(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", bits=4)
    nan = torch.full((1, 128), torch.nan, dtype=torch.float16)
    changes = {
        "transformer.h.0.ln_1.weight": torch.ones(64, dtype=torch.float16),
        "transformer.h.1.ln_2.weight": torch.ones(128, dtype=torch.int32),
        "transformer.h.0.mlp.w1.scales": nan,
        "transformer.h.1.mlp.w2.scales": nan,
        "transformer.h.1.mlp.c_proj.qweight": torch.zeros(16, 128, dtype=torch.float32),
        "transformer.ln_f.weight": None,
    }
    edit_tensors(directory, changes)
    edit_json(directory / "generation_config.json", chat_format="llama")
    (directory / "qwen.tiktoken").write_bytes(b"IQ== 0\nIQ== 1\n")
    content = inspected(qwartet, directory)
    expected = [
        "chat_format is 'llama'",
        "transformer.h.0.ln_1.weight: shape is [64]",
        "transformer.h.1.ln_2.weight: dtype is I32",
        "transformer.h.0.mlp.w1.scales: 128 of 128 values are NaN",
        "transformer.h.1.mlp.w2.scales: 128 of 128 values are NaN",
        "transformer.h.1.mlp.c_proj.qweight: dtype is float32",
        "missing tensors: transformer.ln_f.weight",
        "qwen.tiktoken: line 2",
    ]
    missed = [text for text in expected if not any(text in problem for problem in content["problems"])]
    assert not missed
    assert len(content["problems"]) == len(expected), content["problems"]
    assert content["quantization"]["num_sound_linears"] == 7
    assert f"{len(expected)} problems found" in qwartet("inspect", directory).out


def test_every_damaged_shard_is_named(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", sharded=True)
    shards = sorted(directory.glob("*.safetensors"))
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[:-1])
    content = inspected(qwartet, directory)
    assert content["model"] is not None and content["tokenizer"] is not None
    assert [any(str(shard) in problem for problem in content["problems"]) for shard in shards] == [True, True]


def test_a_broken_quantisation_config_does_not_hide_the_rest(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", bits=4)
    edit_json(directory / "quantize_config.json", bits=3)
    content = inspected(qwartet, directory)
    assert len(content["problems"]) == 1 and "bits is 3" in content["problems"][0]
    assert content["weights"]["num_tensors"] > 0 and content["tokenizer"] is not None


def test_odd_things_are_warnings_and_no_problems(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    edit_tensors(directory, {"stray": torch.zeros(1)})
    (directory / "qwen.tiktoken").unlink()
    (directory / "generation_config.json").unlink()
    content = inspected(qwartet, directory)
    assert content["problems"] == []
    for fragment in ("ignored: stray", "holds no .tiktoken file", "generation_config.json: file is missing"):
        assert any(fragment in text for text in content["warnings"])


def test_names_in_a_file_cannot_steer_the_terminal(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    edit_tensors(directory, {"evil\x1b]0;title\x07\r\nproblem: none": torch.zeros(1)})
    outcome = qwartet("inspect", directory, "--tensors")
    assert not set(outcome.out) & set("\x1b\x07\r")
    assert not any(line.startswith("problem: ") for line in outcome.out.splitlines())


def test_an_empty_directory_is_all_problems(qwartet: CommandLine, tmp_path: Path) -> None:
    content = inspected(qwartet, tmp_path)
    assert {text.split(": ")[1] for text in content["problems"]} == {
        "file is missing; is this a checkpoint directory?",
        "holds no .safetensors file; is this a checkpoint directory?",
    }


def test_golden_checkpoints_have_no_problem(qwartet: CommandLine) -> None:
    names = sorted({path.parent.name for path in golden_root().glob("*/model*.safetensors")})
    directories = [golden_path(name) for name in names]
    if not directories:
        pytest.skip(f"no checkpoint in {golden_root()}")
    problems = {directory.name: inspected(qwartet, directory)["problems"] for directory in directories}
    assert not any(problems.values()), problems
