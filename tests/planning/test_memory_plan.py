"""The forecast of memory adds up, agrees with the published figures, and finds the largest workload that fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.checkpoint import weight_cache
from qwartet.checkpoint.held_tensors import held_tensors
from qwartet.checkpoint.planned_tensors import planned_tensors
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import MemoryWarning, SettingError
from qwartet.kernels.cpu.library import native_library
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.rotary import RotaryTable
from qwartet.models import residency
from qwartet.models.families import layout_of, load_config
from qwartet.models.load import choose_settings, load_gptq_config, load_model
from qwartet.models.shapes import SHAPES, Precision, Shape, ShapeName, gptq_config
from qwartet.planning.decode_speed import most_tokens_per_s, read_bytes
from qwartet.planning.gpu_memory import CUDA_CONTEXT_BYTES, GpuPlan, gpu_counts, gpu_network
from qwartet.planning.memory_plan import (
    Machine,
    MemoryPlan,
    NetworkMemory,
    Workload,
    cache_bytes_per_token,
    cache_kind,
    network_memory,
    this_machine,
)
from qwartet.planning.planned_checkpoint import PlannedCheckpoint
from qwartet.planning.published_figures import PUBLISHED_RUNS, PublishedRun
from tests.bench.tiny_shape import TINY

GIB = 2**30
needs_native = pytest.mark.skipif(native_library() is None, reason="there is no native library")


def published(shape: Shape, precision: Precision, of: Callable = network_memory, **settings: Any) -> NetworkMemory:
    gptq = gptq_config(precision)
    planned = plan_synthesis(shape, gptq)
    dtype = "BF16" if gptq is None else "F16"
    checkpoint = PlannedCheckpoint(shape.name, planned_tensors(layout_of(planned.config), gptq, dtype))
    return of(checkpoint, planned.config, choose_settings(checkpoint, planned.config, gptq, **settings))


def of_directory(directory: Path) -> NetworkMemory:
    config, gptq, checkpoint = load_config(directory), load_gptq_config(directory), Checkpoint(directory)
    return network_memory(checkpoint, config, choose_settings(checkpoint, config, gptq, dtype="bf16"))


def planned(network: NetworkMemory, free_bytes: int = 24 * GIB, **workload: Any) -> MemoryPlan:
    settings = {"context": 2048, "concurrency": 2, "kind": "bf16", **workload}
    return MemoryPlan(network, Workload(**settings), Machine(free_bytes, process_bytes=250_000_000, num_threads=2))


@pytest.fixture(scope="module")
def small() -> NetworkMemory:
    return published(SHAPES["1.8b"], "int4")


# --- the sum


def test_the_rows_add_up_and_hold_every_tensor_of_the_network(small: NetworkMemory) -> None:
    made = planned(small)
    assert made.total_bytes == sum(made.rows.values())
    assert sum(small.weights.values()) == small.weights_bytes
    assert {"linears", "embedding", "head", "KV cache", "logits", "the process itself"} < set(made.rows)


@pytest.mark.parametrize("settings", [{}, {"bits": 4}, {"bits": 8}], ids=str)
def test_the_weights_are_those_that_loading_counts(pristine, settings) -> None:
    directory = pristine(**settings)
    network = of_directory(directory)
    held = list(held_tensors(Checkpoint(directory), layout_of(network.config), network.settings))
    assert network.weights_bytes == residency.weights_bytes(held)
    assert sum(network.layer_bytes) == sum(tensor.nbytes for tensor in held if tensor.module.startswith("layers."))


@pytest.mark.parametrize("name", ["7b", "14b"])
def test_the_rotary_tables_are_those_that_are_made(name: ShapeName) -> None:
    network = published(replace(SHAPES[name], num_layers=1), "bf16")
    table = RotaryTable(network.config.position)
    assert network.rotary_bytes == table.cos.nbytes + table.sin.nbytes


@pytest.mark.parametrize("kind", ["bf16", "fp32", "int8", "int4"])
def test_the_cache_is_the_one_that_is_made(kind: str) -> None:
    workload = Workload(context=40, concurrency=3, kind=kind)
    config = published(TINY, "bf16").config
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, "int8": "int8", "int4": "int4"}[kind]
    cache = KVCache(
        num_layers=config.num_layers, num_blocks=3 * workload.blocks_per_request, num_kv_heads=config.num_kv_heads,
        block_size=16, head_dim=config.head_dim, dtype=dtype,
    )  # fmt: skip
    tensors = [(layer.keys, layer.values, layer.key_scales, layer.value_scales) for layer in cache.layers]
    found = sum(tensor.nbytes for group in tensors for tensor in group if tensor is not None)
    assert workload.num_cache_tokens == 3 * 48
    assert found == workload.num_cache_tokens * cache_bytes_per_token(config, kind)


def test_auto_is_the_kind_of_the_model() -> None:
    assert cache_kind("auto", torch.bfloat16) == "bf16" and cache_kind("auto", torch.float32) == "fp32"
    assert cache_kind("int4", torch.bfloat16) == "int4"


# --- the published sizes (tables of bytes in the reference notes, from the published configs)


@pytest.mark.parametrize(
    ("name", "expected"), [("72b", 2_621_440), ("14b", 819_200), ("7b", 524_288), ("1.8b", 196_608)]
)
def test_a_token_of_a_published_size_takes_the_published_bytes(name: ShapeName, expected: int) -> None:
    config = published(SHAPES[name], "bf16").config
    values = expected // 2
    heads = values // 128
    assert cache_bytes_per_token(config, "bf16") == expected
    assert cache_bytes_per_token(config, "int8") == values + 4 * heads
    assert cache_bytes_per_token(config, "int4") == values // 2 + 4 * heads


def test_a_72b_on_gpus_takes_the_bytes_of_packed_codes_and_scales_and_nothing_twice() -> None:
    """Packed layout: 34.897 GB of codes, 1.091 of scales, embedding and head of 2.491 each, no zeros, no g_idx."""
    network = published(SHAPES["72b"], "int4", gpu_network)
    assert network.weights["linears"] == 69_793_218_560 // 2 + 69_793_218_560 // 128 * 2
    assert network.weights["embedding"] == network.weights["head"] == 152_064 * 8192 * 2
    assert network.weights["8-bit copy of the head"] == 0
    assert 41.0e9 <= network.weights_bytes <= 41.25e9


@needs_native
def test_a_72b_on_a_cpu_has_the_8_bit_copy_of_the_head_beside_that() -> None:
    on_cpu, exact = (published(SHAPES["72b"], "int4", head=head) for head in ("auto", "exact"))
    on_gpu = published(SHAPES["72b"], "int4", gpu_network)
    assert exact.weights_bytes == on_gpu.weights_bytes
    assert on_cpu.weights_bytes - exact.weights_bytes == 152_064 * (8192 + 8192 // 128 * 2 + 8)


def test_a_float_72b_takes_the_bytes_of_its_files() -> None:
    for of in (network_memory, gpu_network):
        assert published(SHAPES["72b"], "bf16", of).weights_bytes == 144_575_840_256  # total_size of the index


# --- what fits


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("free_bytes", [3 * GIB, 5 * GIB + 12_345])
def test_the_largest_context_and_concurrency_fit_and_one_more_does_not(
    small: NetworkMemory, kind: str, free_bytes: int
) -> None:
    made = planned(small, free_bytes, context=1024, concurrency=3, kind=kind)
    context, count = made.largest_context, made.largest_concurrency
    assert count > 0 and context >= 2
    assert made.with_workload(concurrency=count).fits
    assert not made.with_workload(concurrency=count + 1).fits
    assert made.with_workload(context=context).fits
    assert context == 8192 or not made.with_workload(context=context + 1).fits


def test_where_everything_fits_the_model_and_the_engine_are_the_bounds(small: NetworkMemory) -> None:
    made = planned(small, 2**60)
    assert (made.largest_context, made.largest_concurrency) == (8192, 65_536)


def test_where_nothing_fits_both_are_zero(small: NetworkMemory) -> None:
    made = planned(small, GIB)
    assert not made.fits and (made.largest_context, made.largest_concurrency) == (0, 0)


def test_it_fits_to_the_byte(small: NetworkMemory) -> None:
    total = planned(small).total_bytes
    assert planned(small, total).fits and not planned(small, total - 1).fits


@pytest.mark.parametrize(("name", "smaller"), [("context", 511), ("concurrency", 1)])
def test_more_work_never_takes_less(small: NetworkMemory, name: str, smaller: int) -> None:
    sizes = [planned(small, **{name: value}).total_bytes for value in range(smaller, smaller + 40)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 8193}, r"context is 8193 tokens; with this model it must be between 2 and 8192"),
        ({"context": 0}, "context is 0 tokens"),
        ({"context": 10**30}, "context is 10"),
        ({"concurrency": 0}, "concurrency is 0 requests"),
        ({"concurrency": 10**9}, "between 1 and 65536"),
    ],
)
def test_a_workload_out_of_bounds_is_refused(small: NetworkMemory, changes: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        planned(small, **changes).workload.check(small.config)


def test_this_process_is_the_measure_of_a_process() -> None:
    machine = this_machine()
    assert 50_000_000 < machine.process_bytes < 100 * GIB
    assert machine.free_bytes > 0 and machine.num_threads >= 1


# --- the start, and weights that do not fit


def test_packing_needs_room_for_one_module_where_it_is_kept_and_for_all_where_not(pristine, monkeypatch) -> None:
    if native_library() is None:
        pytest.skip("only the native kernels pack")
    every_start = planned(of_directory(pristine(bits=4)), context=16, concurrency=1)
    assert every_start.network.kept_bytes == 0
    assert every_start.peak_first_bytes == every_start.peak_later_bytes == every_start.peak_unkept_bytes
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    kept = planned(of_directory(pristine(bits=4)), context=16, concurrency=1)
    assert kept.network.kept_bytes == kept.network.weights_bytes  # fp16 in the file, so nothing is held as it is there
    assert kept.network.packing_bytes < kept.network.unkept_bytes
    assert kept.peak_later_bytes == kept.total_bytes <= kept.peak_first_bytes <= kept.peak_unkept_bytes


def test_a_float_checkpoint_is_mapped_and_nothing_is_packed(pristine) -> None:
    network = of_directory(pristine())
    assert network.kept_bytes == network.packing_bytes == network.unkept_bytes == 0


def test_weights_that_fit_are_not_streamed(small: NetworkMemory) -> None:
    assert planned(small, small.weights_bytes).stream is None
    assert planned(small, small.weights_bytes - 1).stream is not None or native_library() is None


def test_what_cannot_be_mapped_cannot_be_streamed() -> None:
    network = published(replace(SHAPES["1.8b"], num_layers=2), "int4", dtype="fp32")
    assert planned(network, 1000).stream is None


@needs_native
@pytest.mark.parametrize("precision", ["int4", "bf16"])
@pytest.mark.parametrize(("share", "num_resident"), [(0.001, 0), (0.8, 2)])
def test_the_forecast_of_streaming_is_what_loading_does(
    tmp_path, monkeypatch, precision: Precision, share: float, num_resident: int
) -> None:
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    write_synthesis(plan_synthesis(replace(TINY, num_layers=8), gptq_config(precision)), tmp_path / "model")
    network = of_directory(tmp_path / "model")
    free_bytes = int(share * network.weights_bytes)
    monkeypatch.setattr(residency, "available_bytes", lambda _device: free_bytes)
    with pytest.warns(MemoryWarning):
        loaded = load_model(tmp_path / "model", dtype="bf16").layers.stream
    forecast = planned(network, free_bytes).stream
    assert forecast is not None
    assert (forecast.num_resident, forecast.num_layers) == (loaded.num_resident, loaded.num_layers)
    # Biases of zeros are counted, and dropped when they are read.
    assert loaded.streamed_bytes <= forecast.streamed_bytes <= 1.005 * loaded.streamed_bytes
    assert forecast.num_resident >= num_resident


# --- GPUs


def on_gpus(size: ShapeName, num_gpus: int, gpu_bytes: int | None = None, **workload: Any) -> GpuPlan:
    settings = {"context": 32_768, "concurrency": 2, "kind": "int8", **workload}
    return GpuPlan(published(SHAPES[size], "int4", gpu_network), Workload(**settings), num_gpus, gpu_bytes)


def test_gpus_share_weights_and_cache_evenly() -> None:
    one, four = (on_gpus("72b", count).rows for count in (1, 4))
    for name in ("weights", "KV cache"):
        assert four[name] == math.ceil(one[name] / 4)
    assert one["KV cache"] == 2 * 32_768 * 1_351_680
    assert four["rotary tables"] == one["rotary tables"] and one["step"] / 4 < four["step"] < one["step"]
    assert one["CUDA context"] == four["CUDA context"] == CUDA_CONTEXT_BYTES


def test_gpus_that_cannot_share_the_heads_share_the_layers() -> None:
    one, three = on_gpus("72b", 1), on_gpus("72b", 3)
    assert (one.split, on_gpus("72b", 4).split, three.split) == ("none", "heads", "layers")
    assert three.rows["KV cache"] == one.rows["KV cache"] * 27 // 80
    assert three.rows["weights"] == 27 * one.network.layer_bytes[0] + one.network.weights["head"]
    assert 3 * three.rows["weights"] > one.rows["weights"] and three.rows["step"] == one.rows["step"]


def test_the_question_of_the_card_is_answered() -> None:
    """48 GiB hold the 72B in Int4, with a context of some thousand tokens and not with the whole."""
    plan = on_gpus("72b", 1, 48 * GIB, concurrency=1, kind="bf16")
    assert not plan.fits and 3000 < plan.largest_context < 4000
    fitting = plan.with_workload(context=plan.largest_context)
    assert fitting.fits and fitting.largest_concurrency == 1
    assert not plan.with_workload(context=plan.largest_context + 16).fits
    assert not on_gpus("72b", 1, 36 * GIB).largest_context


def test_memory_that_is_not_known_fits_nothing() -> None:
    assert not on_gpus("1.8b", 1).fits


def test_which_numbers_of_gpus_are_planned_for() -> None:
    config = published(SHAPES["14b"], "int4", gpu_network).config
    assert gpu_counts(config) == [1, 2, 4]
    assert gpu_counts(config, 5) == [5] and gpu_counts(config, 3) == [3]
    for count in (0, -1, 41, 10**9):
        with pytest.raises(SettingError, match=f"gpus is {count}; it must be a number from 1 to 40"):
            gpu_counts(config, count)


# --- speed


def test_a_decoded_token_reads_all_weights_but_the_embedding_and_the_cache() -> None:
    network = published(SHAPES["72b"], "int4", gpu_network)
    weights = network.weights_bytes - network.weights["embedding"]
    assert read_bytes(network, "bf16", 0) == weights
    assert read_bytes(network, "bf16", 1000) == weights + 1000 * 2_621_440
    assert most_tokens_per_s(network, "bf16", 0, 2e12, 2) == pytest.approx(2 * 2e12 / weights)


@pytest.mark.parametrize(
    "run",
    [run for run in PUBLISHED_RUNS if run.tokens_per_s is not None],
    ids=lambda run: f"{run.size}-{run.precision}-{run.setting}-{run.num_gpus}-{run.prompt_tokens}",
)
def test_the_bounds_lie_above_the_published_speed_and_below_the_published_memory(run: PublishedRun) -> None:
    """Of an A100-SXM4-80G, which reads 2,039 GB/s (NVIDIA's data sheet)."""
    network = published(SHAPES[run.size], run.precision, gpu_network)
    workload = Workload(min(run.prompt_tokens + 2048, network.config.position.max_length), 1, "bf16")
    assert run.tokens_per_s is not None and run.tokens_per_s < most_tokens_per_s(
        network, "bf16", run.prompt_tokens, 2039e9, run.num_gpus
    )
    if run.memory_gib is not None:
        planned = GpuPlan(network, workload, run.num_gpus)
        assert (planned.total_bytes - CUDA_CONTEXT_BYTES) * run.num_gpus < run.memory_gib * GIB
