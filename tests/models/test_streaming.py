"""A model that does not fit the memory answers as one that does, from weights that are mapped; else it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwartet.bench.numerics import logits_of
from qwartet.checkpoint import weight_cache
from qwartet.errors import MemoryWarning, OutOfMemoryError
from qwartet.files import disk_read_speed
from qwartet.kernels import device_memory
from qwartet.kernels.cpu.library import native_library
from qwartet.kernels.cpu.weights import head_shape
from qwartet.models import residency
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel

pytestmark = pytest.mark.skipif(native_library() is None, reason="only the native kernels stream")

EXAMPLES = [[1, 2, 3, 300, 5], [7, 8]]


@pytest.fixture(autouse=True)
def small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)


def streamed(path: Path, monkeypatch: pytest.MonkeyPatch, available: int) -> QwenModel:
    monkeypatch.setattr(residency, "available_bytes", lambda _device: available)
    with pytest.warns(MemoryWarning, match=r"of 2 layers stay there, .* read from disk for every token"):
        return load_model(path, dtype="bf16")


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("available", [1000, 250_000])
def test_the_logits_are_the_same_bit_for_bit(pristine, monkeypatch, bits, available) -> None:
    expected = logits_of(load_model(pristine(bits=bits), dtype="bf16"), EXAMPLES)
    model = streamed(pristine(bits=bits), monkeypatch, available)
    assert model.layers.stream.streamed_bytes > 0
    for _step in range(3):
        assert torch.equal(logits_of(model, EXAMPLES), expected)


def test_module_by_module_the_weights_stream_too(pristine, monkeypatch) -> None:
    expected = logits_of(load_model(pristine(bits=4), dtype="bf16"), EXAMPLES)
    model = streamed(pristine(bits=4), monkeypatch, 250_000)
    fetched, before = [], model.layers.stream.before
    monkeypatch.setattr(model.layers.stream, "before", lambda layer: fetched.append(layer) or before(layer))
    model.layers[1].mlp.up.register_forward_hook(lambda *_: None)
    assert torch.equal(logits_of(model, EXAMPLES), expected) and fetched == [0, 1]


def test_the_first_layers_stay_in_memory_as_far_as_the_budget_goes(pristine, monkeypatch) -> None:
    small = streamed(pristine(bits=4), monkeypatch, 1000).layers.stream
    assert small.num_resident == 0
    layer_bytes = small.streamed_bytes // 2
    head_bytes = 2 * 512 * 128 + head_shape(512, 128).panels_bytes + 8 * 512
    monkeypatch.setattr("qwartet.models.load.resident_budget", lambda _device: layer_bytes + head_bytes)
    large = streamed(pristine(bits=4), monkeypatch, 1000).layers.stream
    assert (large.num_resident, large.streamed_bytes) == (1, layer_bytes)


@pytest.mark.parametrize("settings", [{"weight_cache": False}, {"load_mode": "pread"}, {"dtype": "fp32"}], ids=str)
def test_weights_that_cannot_be_mapped_are_refused(pristine, monkeypatch, settings) -> None:
    monkeypatch.setattr(residency, "available_bytes", lambda _device: 1000)
    with pytest.raises(OutOfMemoryError, match="--force"):
        load_model(pristine(bits=4), **{"dtype": "bf16", **settings})


def test_a_cache_that_cannot_be_written_is_no_place_to_stream_from(pristine, monkeypatch, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(residency, "available_bytes", lambda _device: 1000)
    with pytest.warns(match="weight cache not used"), pytest.raises(OutOfMemoryError):
        load_model(pristine(bits=4), dtype="bf16")


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path) -> None:
    def lines(path: Path):
        yield from {
            "/proc/self/cgroup": ["0::/box"],
            "/sys/fs/cgroup/box/memory.max": ["1000000"],
            "/sys/fs/cgroup/box/memory.current": ["700000"],
            "/sys/fs/cgroup/box/memory.stat": ["anon 400000", "inactive_file 200000", "active_file 50000"],
        }.get(str(path), [])

    monkeypatch.setattr(device_memory, "_lines", lines)
    assert device_memory.available_bytes(torch.device("cpu")) == 550_000


@pytest.mark.parametrize("text", [["0::/box"], ["nonsense:x:/"], [], ["4:memory:/a"]])
def test_a_container_without_a_limit_is_the_whole_machine(monkeypatch, text) -> None:
    monkeypatch.setattr(
        device_memory, "_lines", lambda path: iter(text if str(path) == "/proc/self/cgroup" else ["max"])
    )
    assert device_memory.available_bytes(torch.device("cpu")) == device_memory._system_bytes()


def test_the_speed_of_the_disk_is_measured_or_unknown(tmp_path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(2**20))
    speed = disk_read_speed(file)
    assert speed is None or speed > 1e5
    assert disk_read_speed(tmp_path / "absent") is None
