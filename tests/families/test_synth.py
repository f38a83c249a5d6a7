"""Random checkpoints of Qwen2.5 and Qwen3 have the published layout, and all that reads checkpoints accepts them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qwartet import LLM, SamplingParams
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.checkpoint.planned_tensors import planned_tensors
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import SettingError
from qwartet.models.families import layout_of, parse_config
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.shapes import ALL_SHAPES, Precision, Shape, config_json, gptq_config
from qwartet.planning.stored_model import stored_model
from tests.cli.command_line import CommandLine

SMALL = {
    "num_layers": 2, "hidden_size": 256, "num_heads": 4, "kv_heads": 2, "head_dim": 64, "intermediate_size": 384,
    "vocab_size": 640, "num_ranks": 600, "max_position_embeddings": 512,
}  # fmt: skip
SHAPES = {name: replace(ALL_SHAPES[name], **SMALL) for name in ("qwen2.5-0.5b", "qwen2.5-7b", "qwen3-0.6b", "qwen3-8b")}
FORMS: list[tuple[Precision, bool]] = [("bf16", False), ("int4", False), ("int8", True)]


def write(directory: Path, shape: Shape, precision: Precision, desc_act: bool = False) -> Path:
    write_synthesis(plan_synthesis(shape, gptq_config(precision, desc_act=desc_act)), directory)
    return directory


@pytest.mark.parametrize(("precision", "desc_act"), FORMS)
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_sound_and_holds_the_planned_tensors(tmp_path, name: str, precision: Precision, desc_act: bool) -> None:
    directory = write(tmp_path / "model", SHAPES[name], precision, desc_act)
    found = inspect_checkpoint(directory)
    assert found.problems == []
    assert found.warnings == [f"{directory}: holds no tokenizer.json, so prompts must be token ids; copy it there"]
    gptq = gptq_config(precision, desc_act=desc_act)
    config = parse_config(config_json(SHAPES[name], gptq), directory / "config.json")
    dtype = "BF16" if gptq is None else "F16"
    planned = {(tensor.name, tensor.shape) for tensor in planned_tensors(layout_of(config), gptq, dtype)}
    assert {(info.name, info.shape) for info in Checkpoint(directory).tensors.values()} == planned
    assert stored_model(directory).precision == precision


@pytest.mark.parametrize("name", SHAPES)
def test_it_runs(tmp_path, name: str) -> None:
    directory = write(tmp_path / "model", SHAPES[name], "int4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no tokenizer
        with LLM(directory) as llm:
            assert torch.isfinite(llm.logits([1, 2, 3])).all()
            params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
            assert len(llm.generate([5, 6, 7], params)[0].token_ids) == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"counts": True}, "has no output head of its own, which --counts needs"),
        ({"vocabulary": Path("qwen.tiktoken")}, "does not read .tiktoken files; leave --vocabulary out"),
    ],
)
def test_what_the_family_does_not_have_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        plan_synthesis(SHAPES["qwen2.5-0.5b"], None, **settings)


def test_the_verbs_take_the_names(capsys, monkeypatch, tmp_path: Path) -> None:
    qwartet, directory = CommandLine(capsys), tmp_path / "model"
    monkeypatch.setitem(ALL_SHAPES, "qwen2.5-0.5b", SHAPES["qwen2.5-0.5b"])
    outcome = qwartet("synth", "qwen2.5-0.5b", directory, "--layers", "1", "--json")
    assert outcome.code == 0, outcome
    shown = qwartet("inspect", directory)
    assert shown.code == 0 and "4 heads of 64 sharing 2 key/value heads" in shown.out
    assert qwartet("plan", directory).code == 0
    refused = qwartet("plan", "qwen3-8b", "--finetune", "qlora")
    refused.assert_one_line_error("fine-tuning supports first-generation Qwen models only")
