"""From a float checkpoint to a GPTQ one: what is written, what survives an abort, what is refused."""

from __future__ import annotations

import errno
import filecmp
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qwartet.checkpoint.layout import LINEARS
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, SettingError
from qwartet.kernels.select import select_gptq_ops
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import layout_of
from qwartet.models.load import load_model
from qwartet.models.qwen import DecoderLayer
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import unpack_qweight
from qwartet.quantize import block, pipeline
from qwartet.quantize.activations import Activations
from qwartet.quantize.hessian import HessianAccumulator
from qwartet.quantize.pipeline import QuantizeEvent, quantize_checkpoint
from qwartet.quantize.solver import SolverSettings, gptq_quantize
from tests.golden_data import REPOSITORY
from tests.published_names import disk_name
from tests.tiny_checkpoint import HIDDEN_SIZE, MLP_WIDTH, NUM_LAYERS, VOCAB_SIZE, write_tiny_checkpoint

INT4 = GptqConfig(bits=4, group_size=32, desc_act=False, sym=True)
INT8 = replace(INT4, bits=8)
ALL_LINEARS = [(layer, linear) for layer in range(NUM_LAYERS) for linear in LINEARS]


def random_ids(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]


CALIBRATION = random_ids([40, 40, 7, 90, 1, 60, 60, 60])


class Stopped(Exception):
    """What a test's callback raises."""


def stop_at(layer: int, linear: str) -> Callable[[QuantizeEvent], None]:
    def on_event(event: QuantizeEvent) -> None:
        if (event.layer, event.linear) == (layer, linear):
            raise Stopped

    return on_event


def assert_same_files(one: Path, other: Path) -> None:
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("float"))
    (directory / "LICENSE").write_text("to be passed on")
    (directory / "modeling_qwen.py").write_text("raise SystemExit")
    return directory


@pytest.fixture(scope="module")
def int4(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("quantised") / "int4"
    quantize_checkpoint(source, target, INT4, CALIBRATION)
    return target


def edit_tensor(directory: Path, name: str, edit: Callable[[torch.Tensor], Any]) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors[name])
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def logits(directory: Path) -> torch.Tensor:
    model = load_model(directory, dtype="fp32")
    with torch.no_grad():
        return model(dense_batch(random_ids([50], seed=1), model.config.position))


def mean_kl(directory: Path, parent: Path) -> float:
    p, q = logits(parent).log_softmax(-1), logits(directory).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def test_tensors_have_the_published_names_dtypes_and_shapes(int4: Path) -> None:
    expected: dict[str, tuple[str, list[int]]] = {
        "transformer.wte.weight": ("F16", [VOCAB_SIZE, HIDDEN_SIZE]),
        "transformer.ln_f.weight": ("F16", [HIDDEN_SIZE]),
        "lm_head.weight": ("F16", [VOCAB_SIZE, HIDDEN_SIZE]),
    }
    shapes = {
        "attn.c_attn": (HIDDEN_SIZE, 3 * HIDDEN_SIZE),
        "attn.c_proj": (HIDDEN_SIZE, HIDDEN_SIZE),
        "mlp.w1": (HIDDEN_SIZE, MLP_WIDTH),
        "mlp.w2": (HIDDEN_SIZE, MLP_WIDTH),
        "mlp.c_proj": (MLP_WIDTH, HIDDEN_SIZE),
    }
    for layer in range(NUM_LAYERS):
        block = f"transformer.h.{layer}"
        expected |= {f"{block}.{norm}.weight": ("F16", [HIDDEN_SIZE]) for norm in ("ln_1", "ln_2")}
        for name, (inputs, outputs) in shapes.items():
            expected[f"{block}.{name}.qweight"] = ("I32", [inputs // 8, outputs])
            expected[f"{block}.{name}.qzeros"] = ("I32", [inputs // 32, outputs // 8])
            expected[f"{block}.{name}.scales"] = ("F16", [inputs // 32, outputs])
            expected[f"{block}.{name}.g_idx"] = ("I32", [inputs])
            expected[f"{block}.{name}.bias"] = ("F16", [outputs])
    with safe_open(int4 / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        assert {name: (part.get_dtype(), part.get_shape()) for name, part in found.items()} == expected


def test_what_is_not_quantised_is_the_parents_rounded_to_fp16(source: Path, int4: Path) -> None:
    parent, tensors = load_file(source / "model.safetensors"), load_file(int4 / "model.safetensors")
    kept = tensors.keys() & parent.keys()
    assert {"transformer.wte.weight", "lm_head.weight", "transformer.h.1.attn.c_attn.bias"} < kept
    assert all(torch.equal(tensors[name], parent[name].half()) for name in kept)
    others = [name for name in tensors if name.endswith(".bias") and name not in parent]
    assert len(others) == 4 * NUM_LAYERS
    assert not any(tensors[name].any() for name in others)


def test_the_configs_are_the_parents_with_the_settings_added(source: Path, int4: Path) -> None:
    parent = json.loads((source / "config.json").read_text())
    written = json.loads((int4 / "config.json").read_text())
    settings = {
        "bits": 4,
        "group_size": 32,
        "damp_percent": 0.01,
        "desc_act": False,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
    }
    inner = {**settings, "quant_method": "gptq"}
    assert written == {**parent, "fp16": True, "torch_dtype": "float16", "quantization_config": inner}
    assert list(written) == sorted(written)
    assert list(written["quantization_config"]) == list(inner)
    assert (int4 / "quantize_config.json").read_text() == json.dumps(settings, indent=2) + "\n"


def test_the_small_files_are_copied_and_nothing_else_is_there(source: Path, int4: Path) -> None:
    copied = ["LICENSE", "generation_config.json", "qwen.tiktoken", "tokenizer_config.json"]
    assert all(filecmp.cmp(source / name, int4 / name, shallow=False) for name in copied)
    written = ["config.json", "model.safetensors", "quantize_config.json"]
    assert sorted(file.name for file in int4.iterdir()) == sorted(copied + written)
    assert list(int4.parent.iterdir()) == [int4]


def test_every_file_has_the_permissions_of_a_new_file(int4: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert {file.stat().st_mode for file in int4.iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_shards_and_index_hold_the_same_tensors_as_one_file(source: Path, int4: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "sharded", INT4, CALIBRATION, max_shard_bytes=100_000)
    index = json.loads((tmp_path / "sharded/model.safetensors.index.json").read_text())
    whole = load_file(int4 / "model.safetensors")
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in whole.values())}
    for shard in shards:
        tensors = load_file(tmp_path / "sharded" / shard)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 100_000
        assert all(index["weight_map"][name] == shard for name in tensors)
        assert all(torch.equal(whole[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(logits(tmp_path / "sharded"), logits(int4))


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("desc_act", [True, False])
def test_an_int8_model_answers_almost_as_its_parent(source: Path, tmp_path: Path, sym: bool, desc_act: bool) -> None:
    quantize_checkpoint(source, tmp_path / "int8", replace(INT8, sym=sym, desc_act=desc_act), CALIBRATION)
    assert mean_kl(tmp_path / "int8", source) < 1e-3  # measured: 6e-5 to 9e-5


def test_an_int4_model_answers_much_as_its_parent(source: Path, int4: Path) -> None:
    assert mean_kl(int4, source) < 0.1  # measured: 0.025


def test_every_linear_is_solved_for_its_inputs_in_the_quantised_model(source: Path, int4: Path) -> None:
    model, parent = load_model(int4, dtype="fp32"), Checkpoint(source)
    accumulators = {}
    for layer, linear in ALL_LINEARS:
        module = model.get_submodule(f"layers.{layer}.{linear}")
        seen = accumulators[f"layers.{layer}.{linear}"] = HessianAccumulator(module.in_features)
        module.register_forward_pre_hook(lambda _module, inputs, seen=seen: seen.add(inputs[0]))
    with torch.no_grad():
        model(dense_batch(CALIBRATION, model.config.position))
    tensors = load_file(int4 / "model.safetensors")
    settings = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False}
    for name, seen in accumulators.items():
        codes = gptq_quantize(parent.read(f"{disk_name(name)}.weight"), seen.hessian, **settings).weight.codes()
        written = unpack_qweight(tensors[f"{disk_name(name)}.qweight"], bits=4)
        assert (codes == written).float().mean() >= 0.99, name  # sums in another order flip a few roundings


def test_there_is_one_event_for_each_linear_in_order(source: Path, tmp_path: Path) -> None:
    told: list[QuantizeEvent] = []
    returned = quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_event=told.append)
    assert told == returned
    assert [(event.layer, event.linear) for event in told] == ALL_LINEARS
    assert all(event.loss > 0 and event.damp_percent == 0.01 and event.num_layers == NUM_LAYERS for event in told)
    assert not any(event.is_resumed for event in told)


@pytest.mark.parametrize("desc_act", [True, False])
@pytest.mark.parametrize("stop", [(0, "mlp.up"), (1, "attention.qkv"), (1, "mlp.down")])
def test_a_resumed_run_ends_with_the_same_bits(source: Path, tmp_path: Path, stop: Any, desc_act: bool) -> None:
    config = replace(INT4, desc_act=desc_act)
    straight = quantize_checkpoint(source, tmp_path / "straight", config, CALIBRATION)
    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "resumed", config, CALIBRATION, on_event=stop_at(*stop))
    assert not (tmp_path / "resumed").exists()
    events = quantize_checkpoint(source, tmp_path / "resumed", config, CALIBRATION)
    assert [event.is_resumed for event in events] == [event.layer < stop[0] for event in events]
    assert [event.loss for event in events] == [event.loss for event in straight]
    assert_same_files(tmp_path / "straight", tmp_path / "resumed")
    assert not (tmp_path / "resumed.partial").exists()


def test_a_killed_run_is_resumed(source: Path, int4: Path, tmp_path: Path) -> None:
    child = f"""
import os, signal, torch
from pathlib import Path
from tests.quantize import test_pipeline as t
torch.set_num_threads(1)
kill = lambda event: os.kill(os.getpid(), signal.SIGKILL) if event.layer == 1 else None
t.quantize_checkpoint(Path({str(source)!r}), Path({str(tmp_path)!r}, "out"), t.INT4, t.CALIBRATION, on_event=kill)
"""
    assert subprocess.run([sys.executable, "-c", child], cwd=REPOSITORY).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    events = quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)
    assert [event.is_resumed for event in events] == [event.layer == 0 for event in events]
    assert_same_files(tmp_path / "out", int4)


def test_one_example_is_enough_if_it_is_long_enough(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "out", INT4, random_ids([300]))
    assert mean_kl(tmp_path / "out", source) < 0.2
    with pytest.raises(SettingError, match="127 tokens in 1 examples; this model needs at least 128"):
        quantize_checkpoint(source, tmp_path / "short", INT4, random_ids([127]))


@pytest.mark.parametrize("changed", ["settings", "calibration", "dtype", "weights", "nothing"])
def test_finished_blocks_are_reused_only_for_the_same_settings_and_inputs(
    source: Path, tmp_path: Path, changed: str
) -> None:
    arguments: dict[str, Any] = {
        "source": write_tiny_checkpoint(tmp_path / "source"),
        "config": INT4,
        "calibration": CALIBRATION,
    }
    with pytest.raises(Stopped):
        quantize_checkpoint(target=tmp_path / "out", **arguments, on_event=stop_at(1, "mlp.down"))
    if changed == "settings":
        arguments["config"] = replace(INT4, damp_percent=0.02)
    elif changed == "calibration":
        arguments["calibration"] = CALIBRATION[1:]
    elif changed == "dtype":
        arguments["dtype"] = "bf16"
    elif changed == "weights":
        edit_tensor(tmp_path / "source", "transformer.h.0.mlp.w1.weight", lambda weight: weight[3].neg_())
    if changed in ("settings", "calibration", "dtype"):
        with pytest.raises(SettingError, match=r"finished blocks of a run with other settings .*; use those to resume"):
            quantize_checkpoint(target=tmp_path / "out", **arguments)
        (tmp_path / "out.partial" / "settings.json").unlink()  # nor are they taken where their settings are not known
    events = quantize_checkpoint(target=tmp_path / "out", **arguments)
    assert events[0].is_resumed == (changed == "nothing")
    assert_same_files(tmp_path / "out", fresh(tmp_path / "fresh", **arguments))


def fresh(target: Path, **arguments: Any) -> Path:
    quantize_checkpoint(target=target, **arguments)
    return target


def test_a_torn_block_file_is_made_anew(source: Path, int4: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_event=stop_at(1, "mlp.down"))
    (finished,) = (tmp_path / "out.partial").glob("block-*.safetensors")
    os.truncate(finished, finished.stat().st_size // 2)
    events = quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)
    assert not events[0].is_resumed
    assert_same_files(tmp_path / "out", int4)


def test_a_full_disk_leaves_no_target_and_loses_no_finished_block(
    source: Path, int4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fsync, num_calls = os.fsync, 0

    def full_disk(descriptor: int) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls > NUM_LAYERS:  # one for each block file; the next is a shard
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match=r"No space left on device.*run the same command again to resume"):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    monkeypatch.undo()
    assert all(event.is_resumed for event in quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION))
    assert_same_files(tmp_path / "out", int4)


def test_only_one_block_is_alive_at_a_time(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive_before_load = []
    real_load_block = pipeline.load_block

    def layers_alive() -> list[DecoderLayer]:
        return [thing for thing in gc.get_objects() if type(thing) is DecoderLayer]

    of_others = layers_alive()  # of networks that other tests keep, or left to the collector: held, so they stay

    def num_alive() -> int:
        return len(layers_alive()) - len(of_others)

    def load_block(*args: Any, **kwargs: Any) -> DecoderLayer:
        gc.collect()
        alive_before_load.append(num_alive())
        return real_load_block(*args, **kwargs)

    def on_event(_event: QuantizeEvent) -> None:
        assert num_alive() == 1

    monkeypatch.setattr(pipeline, "load_block", load_block)
    quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_event=on_event)
    assert alive_before_load == [0] * NUM_LAYERS


def test_every_example_goes_through_the_blocks_as_through_the_whole_model_alone(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "BATCH_TOKENS", 100)
    model, checkpoint = load_model(source, dtype="fp32"), Checkpoint(source)
    layout, activations, ops = layout_of(model.config), Activations(), select_gptq_ops(torch.device("cpu"))
    place: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}
    calibration = block.embed_calibration(checkpoint, layout, model.config, CALIBRATION, activations, **place)
    assert [len(item.batch.seq_lens) for item in calibration] == [3, 2, 1, 1, 1]
    assert [item.first_example for item in calibration] == [0, 3, 5, 6, 7]
    run = block.BlockRun(calibration, activations, model.rotary, SolverSettings(4, 32, True), ops)
    with torch.no_grad():
        for index in range(NUM_LAYERS):
            layer = block.load_block(checkpoint, layout, model.config, index, **place, ops=ops)
            block.advance(layer, run, lambda _number: None)
        hidden = torch.cat([activations.get(block.HIDDEN, number) for number in range(len(calibration))])
        through_blocks = model.lm_head(model.norm(hidden))
        alone = torch.cat([model(dense_batch([example], model.config.position)) for example in CALIBRATION])
    torch.testing.assert_close(through_blocks, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ([], "0 tokens in 0 examples; this model needs at least 128"),
        (random_ids([20]), "20 tokens in 1 examples; this model needs at least 128"),
        ([*CALIBRATION, []], "example 8 has 0 tokens"),
        (random_ids([2049]), "example 0 has 2049 tokens; it must have 1 to 2048"),
        ([*CALIBRATION, [5, VOCAB_SIZE]], f"example 8 holds the id {VOCAB_SIZE}; this model's ids are 0 to"),
    ],
)
def test_a_calibration_that_cannot_serve_is_refused(
    source: Path, tmp_path: Path, calibration: list[list[int]], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        quantize_checkpoint(source, tmp_path / "out", INT4, calibration)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"static_groups": True}, "only static_groups false"),
        ({"true_sequential": False}, "true_sequential true"),
        ({"checkpoint_format": "gptq_v2"}, "only 'gptq', the published format, can be written"),
    ],
)
def test_settings_that_are_not_done_are_refused(source: Path, tmp_path: Path, changes: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        quantize_checkpoint(source, tmp_path / "out", replace(INT4, **changes), CALIBRATION)


def test_a_target_that_exists_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(SettingError, match="out exists; choose another name, or remove it"):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_target_that_cannot_be_written_is_refused_before_the_work(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        quantize_checkpoint(source, tmp_path / "file" / "out", INT4, CALIBRATION, on_event=pytest.fail)


def test_a_quantised_model_is_not_quantised_again(int4: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is quantised already; use the float checkpoint"):
        quantize_checkpoint(int4, tmp_path / "out", INT4, CALIBRATION)


@pytest.mark.parametrize("name", ["lm_head.weight", "transformer.h.1.ln_2.weight", "transformer.h.0.attn.c_attn.bias"])
@pytest.mark.parametrize(("value", "shown"), [(1e5, "99840"), (float("nan"), "nan")])
def test_a_value_beyond_fp16_is_refused_by_name_before_the_work(
    tmp_path: Path, name: str, value: float, shown: str
) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    edit_tensor(source, name, lambda tensor: tensor.view(-1)[5:6].fill_(value))
    with pytest.raises(CheckpointError, match=f"{name}: reaches {shown}; the GPTQ format stores fp16"):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_event=pytest.fail)
    assert list(tmp_path.iterdir()) == [source]


def test_a_weight_that_is_nan_is_refused_by_name(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    edit_tensor(source, "transformer.h.1.mlp.w2.weight", lambda tensor: tensor[7, 3:5].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=r"transformer.h.1.mlp.w2: cannot be quantised: 2 of \d+ weights are NaN"):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)


def test_activations_that_overflow_are_refused_by_the_name_of_the_linear_they_reach(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    for name in ("w1", "c_proj"):
        edit_tensor(source, f"transformer.h.0.mlp.{name}.weight", lambda tensor: tensor.mul_(1e4))
    words = r"transformer.h.1.attn.c_attn: its inputs are NaN or infinite in calibration example 0 \(the first is 0\)"
    with pytest.raises(CheckpointError, match=words):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, dtype="fp16")
    assert not (tmp_path / "out").exists()


def test_asymmetric_settings_state_the_format_of_their_zeros(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "out", replace(INT4, sym=False), CALIBRATION)
    assert json.loads((tmp_path / "out/quantize_config.json").read_text())["checkpoint_format"] == "gptq"
    assert mean_kl(tmp_path / "out", source) < 0.1
