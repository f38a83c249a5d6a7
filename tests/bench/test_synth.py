"""Random checkpoints: the published layout, sensible activations, the same bytes for the same seed, all or nothing."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwartet import LLM, SamplingParams
from qwartet import files as whole_files
from qwartet.bench import synth
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weight_files import INDEX_NAME
from qwartet.checkpoint.weights import read_quantized_weight
from qwartet.errors import CheckpointError, SettingError, VocabularyError
from qwartet.models.families import layout_of
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_gptq_config, load_model
from qwartet.models.shapes import SHAPES, Precision, Shape, gptq_config
from qwartet.quant_format.weight import QuantizedWeight
from tests.bench.tiny_shape import TINY
from tests.tiny_checkpoint import tiny_vocabulary

IDS = list(range(3, 300, 7))


@pytest.fixture(scope="module", autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def write(directory: Path, precision: Precision = "int4", shape: Shape = TINY, **settings: Any) -> Path:
    choices = {name: settings.pop(name) for name in ("group_size", "desc_act", "method") if name in settings}
    gptq = gptq_config(precision, **choices)
    planned = {name: settings.pop(name) for name in ("seed", "vocabulary", "counts") if name in settings}
    plan = plan_synthesis(shape, gptq, **planned)
    write_synthesis(plan, directory, **settings)
    return directory


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(directory, "pread")
    return {name: checkpoint.read(name) for name in checkpoint}


def linear(directory: Path, module: str) -> QuantizedWeight:
    model, gptq = load_model(directory), load_gptq_config(directory)
    assert gptq is not None
    spec = layout_of(model.config)[module]
    return read_quantized_weight(Checkpoint(directory), spec, gptq, torch.device("cpu"))


def test_a_72b_takes_the_bytes_of_the_published_files() -> None:
    int4, bf16 = (plan_synthesis(SHAPES["72b"], gptq_config(precision)) for precision in ("int4", "bf16"))
    assert int4.nbytes == 41_277_997_056
    assert bf16.nbytes == 144_575_840_256  # total_size of the published index


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "int4"},
        {"precision": "int8"},
        {"precision": "bf16"},
        {"precision": "int4", "desc_act": True},
        {"precision": "int4", "group_size": -1},
        {"precision": "int8", "group_size": 64, "desc_act": True},
        {"precision": "int4", "method": "awq"},
        {"precision": "int4", "method": "awq", "group_size": 64},
        {"precision": "int4", "max_shard_bytes": 100_000},
    ],
    ids=str,
)
def test_it_loads_without_a_warning_and_gives_logits_of_order_one(tmp_path: Path, settings: dict) -> None:
    llm = LLM(write(tmp_path / "model", **settings), device="cpu", dtype="fp32")
    logits = llm.logits(IDS)
    assert logits.isfinite().all()
    assert 1 < logits.std() < 3
    assert len(llm.generate(IDS, SamplingParams(max_tokens=3, temperature=0.0))[0].token_ids) <= 3


@pytest.mark.parametrize("precision", ["int4", "int8", "bf16"])
def test_inspection_finds_no_problem_and_no_file_without_a_use(tmp_path: Path, precision: Precision) -> None:
    found = inspect_checkpoint(write(tmp_path / "model", precision))
    assert found.problems == []
    assert all(file["is_used"] for file in found.files)


def test_the_float_tensors_of_a_gptq_checkpoint_are_fp16_and_every_linear_has_a_bias(tmp_path: Path) -> None:
    tensors = tensors_of(write(tmp_path / "model"))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int32}
    biases = {name: tensor for name, tensor in tensors.items() if name.endswith(".bias")}
    assert len(biases) == 5 * TINY.num_layers
    assert all(tensor.any() == name.endswith("c_attn.bias") for name, tensor in biases.items())


def test_a_float_checkpoint_is_bf16_and_only_c_attn_has_a_bias(tmp_path: Path) -> None:
    tensors = tensors_of(write(tmp_path / "model", "bf16"))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert {name for name in tensors if name.endswith(".bias")} == {
        f"transformer.h.{layer}.attn.c_attn.bias" for layer in range(TINY.num_layers)
    }


@pytest.mark.parametrize("precision", ["int4", "int8"])
@pytest.mark.parametrize("module", ["layers.0.attention.qkv", "layers.1.mlp.down"])
def test_the_weights_have_no_mean_and_a_variance_of_one_by_the_inputs(
    tmp_path: Path, precision: Precision, module: str
) -> None:
    weight = linear(write(tmp_path / "model", precision), module)
    dense = weight.dequantize() * weight.in_features**0.5
    assert abs(dense.mean()) < 0.02
    assert 0.9 < dense.std() < 1.1
    assert weight.codes().unique().numel() == 2**weight.bits


def test_the_zeros_of_awq_are_about_8_and_differ(tmp_path: Path) -> None:
    weight = linear(write(tmp_path / "model", method="awq"), "layers.0.attention.qkv")
    assert weight.zeros().unique().tolist() == [7, 8, 9]
    dense = weight.dequantize() * weight.in_features**0.5
    assert abs(dense.mean()) < 0.02 and 0.9 < dense.std() < 1.1


def test_with_desc_act_the_groups_are_scattered_and_up_and_gate_are_ordered_alike(tmp_path: Path) -> None:
    directory = write(tmp_path / "model", desc_act=True)
    up, gate, down = (linear(directory, f"layers.0.mlp.{name}").g_idx for name in ("up", "gate", "down"))
    assert up is not None and gate is not None and down is not None  # None: in order
    assert torch.equal(up, gate)
    assert down.bincount().tolist() == [128, 128, 128]


def test_the_same_seed_gives_the_same_files_and_another_seed_other_weights(tmp_path: Path) -> None:
    first, again, other = (files_of(write(tmp_path / name, seed=seed)) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def test_fewer_layers_are_the_first_layers_of_the_whole(tmp_path: Path) -> None:
    whole = tensors_of(write(tmp_path / "whole"))
    part = tensors_of(write(tmp_path / "part", shape=replace(TINY, num_layers=1)))
    assert part.keys() == {name for name in whole if ".h.1." not in name}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in part.items())


def test_layers_and_linears_differ_from_each_other(tmp_path: Path) -> None:
    tensors = tensors_of(write(tmp_path / "model"))
    codes = [tensor for name, tensor in tensors.items() if name.endswith(("w1.qweight", "w2.qweight"))]
    assert len(codes) == 4
    assert len({tensor.numpy().tobytes() for tensor in codes}) == 4


def test_shards_hold_the_same_tensors_and_stay_below_the_limit(tmp_path: Path) -> None:
    limit = 300_000
    single = write(tmp_path / "single")
    sharded = write(tmp_path / "sharded", max_shard_bytes=limit)
    names = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(names) > 2
    assert names == [f"model-{number:05}-of-{len(names):05}.safetensors" for number in range(1, len(names) + 1)]
    assert (sharded / INDEX_NAME).is_file() and not (single / INDEX_NAME).exists()
    for name in names:
        infos = [info for info in Checkpoint(sharded).tensors.values() if info.file.name == name]
        assert sum(info.nbytes for info in infos) <= limit
    expected, found = tensors_of(single), tensors_of(sharded)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_values_do_not_depend_on_the_size_of_the_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files_of(write(tmp_path / "whole"))
    monkeypatch.setattr(synth, "SLICE_BYTES", 1000)
    assert files_of(write(tmp_path / "sliced")) == whole


def test_memory_is_a_few_slices_whatever_the_size_of_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "SLICE_BYTES", 65_536)
    write(tmp_path / "first")  # fills the cached table
    plan = plan_synthesis(replace(TINY, vocab_size=20_000), gptq_config("int4"))
    largest = max(tensor.nbytes for tensor in plan.tensors)
    tracemalloc.start()
    write_synthesis(plan, tmp_path / "model")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest > 10_000_000
    assert peak < 2_500_000  # tables of 65,536 values in float64 and 16 bits, slices, the header


def test_a_counting_checkpoint_says_the_next_id_and_differs_in_nothing_but_the_head(tmp_path: Path) -> None:
    plain, counting = write(tmp_path / "plain"), write(tmp_path / "counting", counts=True)
    before, after = tensors_of(plain), tensors_of(counting)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["lm_head.weight"]
    assert torch.equal(after["lm_head.weight"], before["transformer.wte.weight"].roll(1, 0))
    found = LLM(counting, device="cpu").generate([[5, 9, 70]], SamplingParams(temperature=0, max_tokens=6))
    assert found[0].token_ids == [71, 72, 73, 74, 75, 76]


def test_progress_counts_every_byte_of_the_tensors(tmp_path: Path) -> None:
    counts: list[int] = []
    plan = plan_synthesis(TINY, gptq_config("int8"))
    write_synthesis(plan, tmp_path / "model", on_bytes=counts.append)
    assert sum(counts) == plan.nbytes


def test_an_empty_directory_may_be_the_target_and_so_may_one_whose_parents_are_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert (write(target) / "config.json").is_file()
        assert list(target.parent.glob(".*")) == []


def test_a_target_in_use_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name, words in (("full", "is not empty"), ("file", "is not a directory")):
        with pytest.raises(SettingError, match=words):
            write(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "notes"]


def test_too_little_space_is_refused_with_both_figures_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda _path: SimpleNamespace(free=7_000_000_000))
    plan = plan_synthesis(SHAPES["72b"], gptq_config("int4"))
    with pytest.raises(SettingError, match=r"needs 41\.3 GB, but only 7\.0 GB are free there"):
        write_synthesis(plan, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_whatever_stops_it_nothing_stays(tmp_path: Path, error: BaseException) -> None:
    written = 0

    def stop(count: int) -> None:
        nonlocal written
        written += count
        if written > 500_000:
            raise error

    with pytest.raises(type(error)):
        write(tmp_path / "model", max_shard_bytes=300_000, on_bytes=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_is_copied_and_then_it_can_chat(tmp_path: Path) -> None:
    tiny_vocabulary().save(tmp_path / "some.tiktoken")
    directory = write(tmp_path / "model", vocabulary=tmp_path / "some.tiktoken")
    assert (directory / "qwen.tiktoken").read_bytes() == (tmp_path / "some.tiktoken").read_bytes()
    assert inspect_checkpoint(directory).problems == inspect_checkpoint(directory).warnings == []
    answer, history = LLM(directory, device="cpu").chat("hello", max_tokens=3)
    assert history == [("hello", answer)]


def test_a_vocabulary_of_another_size_brings_its_own_end_of_text(tmp_path: Path) -> None:
    tiny_vocabulary().save(tmp_path / "some.tiktoken")
    plan = plan_synthesis(SHAPES["7b"], None, vocabulary=tmp_path / "some.tiktoken")
    assert plan.jsons["generation_config.json"]["eos_token_id"] == TINY.num_ranks


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    tiny_vocabulary().save(tmp_path / "some.tiktoken")
    with pytest.raises(CheckpointError, match="vocab_size is 400, but the tokenizer has 512"):
        plan_synthesis(replace(TINY, vocab_size=400), None, vocabulary=tmp_path / "some.tiktoken")
    with pytest.raises(VocabularyError):
        plan_synthesis(TINY, None, vocabulary=tmp_path / "absent.tiktoken")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(SettingError, match="seed is -1"):
        plan_synthesis(TINY, None, seed=-1)
