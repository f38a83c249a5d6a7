"""Where weights are: offloaded by accelerate, streamed from disk, repacked in the weight cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwartet.errors import MemoryWarning, OutOfMemoryError
from qwartet.layers.weight_stream import StreamedLayers
from tests.golden_data import golden_path
from tests.hf.loaded import GptqLinear, PagedCache, cache_of, load, loaded, transformers

IDS = torch.tensor([[1, 2, 3, 4, 5]])
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.mark.parametrize("name", ["tiny-72b", "gptq-int4"])
def test_layers_may_be_offloaded_to_disk(name: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed (the extra 'hf')")
    expected = loaded(name)
    layers = {f"transformer.h.{layer}": "disk" for layer in range(1, expected.config.num_hidden_layers)}
    device_map = {"transformer.wte": "cpu", "transformer.h.0": "cpu", "transformer.ln_f": "cpu", "lm_head": "cpu"}
    model = load(name, dtype="float32", device_map=device_map | layers, offload_folder=tmp_path)
    linear = model.transformer.h[1].mlp.w1
    assert (linear.qweight if isinstance(linear, GptqLinear) else linear.weight).is_meta
    assert not model.is_in_one_piece and (logits(model) - logits(expected)).abs().max() <= 1e-5
    with torch.no_grad():
        assert not isinstance(cache_of(model(IDS)), PagedCache)
    assert model.generate(IDS, **GREEDY).equal(expected.generate(IDS, **GREEDY))


def test_hooks_of_accelerate_are_respected() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed (the extra 'hf')")
    model = load("gptq-int4", dtype="float32")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    assert not model.is_in_one_piece and model.transformer.h[0].attn.c_attn.qweight.is_meta
    assert (logits(model) - logits(loaded("gptq-int4"))).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["tiny-72b", "tiny-72b-base-sharded"])
def test_a_model_larger_than_the_memory_is_streamed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwartet.hf.loading.fits_memory", lambda needed, device: False)
    monkeypatch.setattr("qwartet.models.load.resident_budget", lambda device: 0)
    with pytest.warns(MemoryWarning, match="read from disk for every token"):
        model = load(name, dtype="bfloat16")
    assert isinstance(model.transformer.h, StreamedLayers) and model.transformer.h.stream.num_resident == 0
    assert logits(model).equal(logits(loaded(name, "bfloat16")))
    assert model.generate(IDS, **GREEDY).equal(loaded(name, "bfloat16").generate(IDS, **GREEDY))
    with pytest.raises(OutOfMemoryError, match="the weights need"):  # in another dtype nothing can be mapped
        load(name, dtype="float32")


def test_repacked_weights_come_from_the_weight_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("qwartet.checkpoint.weight_cache.LEAST_BYTES", 0)
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path))
    expected = logits(loaded("gptq-int4", "bfloat16"))
    assert logits(load("gptq-int4", dtype="bfloat16")).equal(expected)
    made = list(tmp_path.rglob("*.safetensors"))
    assert made
    monkeypatch.setattr("qwartet.kernels.cpu.backend.CpuBackend.prepare", lambda *args: pytest.fail("packed again"))
    assert logits(load("gptq-int4", dtype="bfloat16")).equal(expected)


def test_kernels_of_the_native_library_run_all_blocks_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwartet.kernels.cpu.fused import NativeLayers
    from qwartet.kernels.cpu.library import native_library

    if native_library() is None:
        pytest.skip("the native library is not compiled here")
    calls = []
    run = NativeLayers.run
    monkeypatch.setattr(NativeLayers, "run", lambda self, x, *args: (calls.append(x.shape[0]), run(self, x, *args))[1])
    loaded("gptq-int4", "bfloat16").generate(IDS, **GREEDY)
    assert calls == [5, 1, 1, 1, 1, 1]


def test_a_hub_id_is_found_in_the_cache_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's library stores it: a snapshot of a commit, and a reference from the branch."""
    store = tmp_path / "models--Qwen--Qwen-Tiny"
    (store / "snapshots").mkdir(parents=True)
    (store / "refs").mkdir()
    commit = "0123456789abcdef0123456789abcdef01234567"
    (store / "refs" / "main").write_text(commit)
    (store / "snapshots" / commit).symlink_to(golden_path("tiny-72b"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        "Qwen/Qwen-Tiny", local_files_only=True, cache_dir=None, dtype="float32"
    )
    assert logits(model).equal(logits(loaded("tiny-72b"))) and model.name_or_path == "Qwen/Qwen-Tiny"
    assert model.config.name_or_path == "Qwen/Qwen-Tiny"
