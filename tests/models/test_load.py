"""A sound checkpoint becomes the same network however it is stored, and without copies that are not needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwartet.checkpoint.held_tensors import held_tensors
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import SettingError
from qwartet.kernels.backend import REFERENCE, PreparedHead, PreparedWeight
from qwartet.kernels.device_memory import available_bytes
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import layout_of, load_config
from qwartet.models.load import choose_settings, load_gptq_config, load_model, resolve_dtype
from qwartet.models.residency import weights_bytes
from tests.models.broken import edit_json, edit_tensors, logits
from tests.published_names import disk_parameter_name
from tests.reference.naive_model import naive_logits, read_checkpoint
from tests.tiny_checkpoint import Copy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 1e-4  # fp32
LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")
IDS = [1, 2, 3, 300, 5]  # those of tests.models.broken.logits


def oracle(directory: Path) -> torch.Tensor:
    return naive_logits(*read_checkpoint(directory), IDS)


def nbytes(prepared: PreparedWeight | PreparedHead) -> int:
    return sum(tensor.nbytes for tensor in prepared.tensors.values())


@pytest.mark.parametrize("settings", [{}, {"bits": 4}, {"bits": 8}], ids=str)
@pytest.mark.parametrize("load_mode", ["mmap", "pread"])
def test_one_file_and_shards_mapped_and_read_are_the_same_network(pristine, settings: dict, load_mode: str) -> None:
    single, sharded = (logits(pristine(sharded=split, **settings), load_mode=load_mode) for split in (False, True))
    assert torch.equal(single, sharded)
    torch.testing.assert_close(single, oracle(pristine(sharded=True, **settings)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("in_file", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
def test_any_float_file_can_be_computed_in_any_float_dtype(checkpoint: Copy, in_file: str, wanted: str) -> None:
    directory = checkpoint()
    path = directory / "model.safetensors"
    edit_tensors(path, lambda tensors: tensors.update({name: t.to(DTYPES[in_file]) for name, t in tensors.items()}))
    model = load_model(directory, dtype=wanted)
    stored = load_file(path)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == DTYPES[wanted]
        assert torch.equal(parameter, stored[disk_parameter_name(name)].to(DTYPES[wanted])), name
    torch.testing.assert_close(logits(directory), oracle(directory), rtol=0, atol=TOLERANCE)


def test_a_file_may_mix_float_dtypes(checkpoint: Copy) -> None:
    directory = checkpoint()
    edit_tensors(
        directory / "model.safetensors",
        lambda tensors: tensors.update(
            {
                name: t.float() if "ln" in name else t.half()
                for name, t in tensors.items()
                if "mlp" in name or "ln" in name
            }
        ),
    )
    assert {parameter.dtype for parameter in load_model(directory).parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(directory), oracle(directory), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("in_file", "chosen"), [("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "bf16")])
def test_the_automatic_dtype_is_the_files_but_never_one_that_overflows(
    checkpoint: Copy, in_file: str, chosen: str
) -> None:
    directory = checkpoint()
    edit_tensors(
        directory / "model.safetensors",
        lambda tensors: tensors.update({name: t.to(DTYPES[in_file]) for name, t in tensors.items()}),
    )
    assert resolve_dtype("auto", Checkpoint(directory), layout_of(load_config(directory))) == DTYPES[chosen]
    assert load_model(directory).dtype == DTYPES[chosen]


@pytest.mark.parametrize("dtype", ["int8", "", torch.float64, torch.int32])
def test_another_dtype_is_refused(pristine, dtype) -> None:
    with pytest.raises(SettingError, match="it must be one of auto, bf16"):
        load_model(pristine(), dtype=dtype)


def test_another_load_mode_is_refused(pristine) -> None:
    with pytest.raises(SettingError, match="load_mode is 'magic'; it must be mmap or pread"):
        load_model(pristine(), load_mode="magic")


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_biases_on_all_five_linears_are_used_though_no_bias_is_true(checkpoint: Copy, bits: int | None) -> None:
    directory = checkpoint(bits=bits)
    without = logits(directory)
    generator = torch.Generator().manual_seed(1)

    def add_biases(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            for linear in LINEARS:
                size = 384 if linear == "attn.c_attn" else 128
                bias = 0.2 * torch.randn(size, generator=generator)
                tensors[f"transformer.h.{layer}.{linear}.bias"] = bias.to(
                    torch.bfloat16 if bits is None else torch.float16
                )

    edit_tensors(directory / "model.safetensors", add_biases)
    assert json.loads((directory / "config.json").read_text(encoding="utf-8"))["no_bias"] is True
    biased = logits(directory)
    torch.testing.assert_close(biased, oracle(directory), rtol=0, atol=TOLERANCE)
    assert (biased - without).abs().max() > 0.1


def test_older_config_keys_load_the_same_network(checkpoint: Copy) -> None:
    directory = checkpoint()
    expected = logits(directory)
    old = {
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 1,
        "ffn_hidden_size": 256,
        "n_positions": 2048,
        "padded_vocab_size": 512,
    }
    new = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    edit_json(directory / "config.json", old, remove=(*new, "vocab_size"))
    assert torch.equal(logits(directory), expected)


def mapped_ranges(path: Path) -> list[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    bounds = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [(int(low, 16), int(high, 16)) for low, high in bounds]


@pytest.mark.parametrize("bits", [None, 4])
def test_at_the_files_dtype_every_tensor_stays_in_the_mapped_file(pristine, bits: int | None) -> None:
    directory = pristine(bits=bits)
    model = load_model(directory, dtype="bf16" if bits is None else "fp16")
    tensors = list(model.parameters())
    for module in model.modules():
        weight = getattr(module, "prepared", None)
        if weight is not None:  # the reference kernel reads the file's own layout
            tensors += [weight.qweight, weight.qzeros, weight.scales, weight.bias]
    ranges = mapped_ranges(directory / "model.safetensors")
    assert len(tensors) == (19 if bits is None else 7 + 40)
    for tensor in tensors:
        assert any(low <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= high for low, high in ranges)


def test_a_loaded_network_is_in_eval_mode_and_asks_for_no_gradients(pristine) -> None:
    model = load_model(pristine())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def planned_bytes(directory: Path, dtype: torch.dtype) -> int:
    checkpoint, config, gptq = Checkpoint(directory), load_config(directory), load_gptq_config(directory)
    return weights_bytes(
        held_tensors(checkpoint, layout_of(config), choose_settings(checkpoint, config, gptq, dtype=dtype))
    )


def test_the_plan_counts_what_the_loaded_network_holds(pristine) -> None:
    for settings, dtype in (({}, torch.float32), ({}, torch.bfloat16), ({"bits": 4}, torch.float32)):
        model = load_model(pristine(**settings), dtype=dtype)
        held = sum(parameter.nbytes for parameter in model.parameters())
        quantized = [module.prepared for module in model.layers.modules() if hasattr(module, "prepared")]
        held += sum(nbytes(weight) + weight.in_features * 4 for weight in quantized)  # g_idx is read, and found plain
        assert planned_bytes(pristine(**settings), dtype) == held


def test_the_plan_counts_packed_weights_and_the_copy_of_the_head(pristine) -> None:
    for settings in ({"bits": 4}, {"bits": 8}):
        model = load_model(pristine(**settings), dtype=torch.bfloat16)
        if model.backend.layout is None:
            pytest.skip("there is no native library")
        assert model.lm_head.prepared is not None
        held = sum(parameter.nbytes for parameter in model.parameters()) + nbytes(model.lm_head.prepared)
        held += sum(nbytes(module.prepared) for module in model.layers.modules() if hasattr(module, "prepared"))
        assert (
            held <= planned_bytes(pristine(**settings), torch.bfloat16) <= held * 1.02
        )  # biases of zeros are not kept


def test_available_memory_is_a_plausible_number_of_bytes() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert 2**20 < available_bytes(torch.device("cpu")) <= int(total.split()[1]) * 1024


PEAK = """
import re, sys
from pathlib import Path
import torch

def peak_kib():  # ru_maxrss would begin with the peak of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak_kib()
from qwartet.models.load import load_model
model = load_model(Path(sys.argv[1]), dtype=sys.argv[2])
for parameter in model.parameters():
    parameter.view(torch.int16).amax()  # every page of the weights is really there
print((peak_kib() - before) * 1024)
"""


@pytest.fixture(scope="module")
def large_checkpoint(pristine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a vocabulary that makes it 300 MB; zeros, so that the file is written quickly."""
    directory = tmp_path_factory.mktemp("large")
    (directory / "config.json").write_bytes((pristine() / "config.json").read_bytes())
    num_rows = 600_000
    edit_json(directory / "config.json", {"vocab_size": num_rows})
    (directory / "model.safetensors").write_bytes((pristine() / "model.safetensors").read_bytes())
    rows = torch.zeros(num_rows, 128, dtype=torch.bfloat16)
    edit_tensors(
        directory / "model.safetensors",
        lambda tensors: tensors.update({"transformer.wte.weight": rows, "lm_head.weight": rows.clone()}),
    )
    return directory


def test_the_peak_of_loading_is_the_file_and_little_more(large_checkpoint: Path) -> None:
    size = (large_checkpoint / "model.safetensors").stat().st_size
    assert size > 300e6
    command = [sys.executable, "-c", PEAK, str(large_checkpoint), "bf16"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert size * 0.9 < int(result.stdout) <= size * 1.15


@pytest.mark.parametrize("load_mode", ["mmap", "pread"])
def test_a_part_of_a_tensor_is_read_as_it_stands_in_the_whole(pristine, load_mode) -> None:
    checkpoint = Checkpoint(pristine(), load_mode)
    name = disk_parameter_name("layers.1.attention.qkv.weight")
    whole = checkpoint.read(name)
    for part in ((slice(3, 90),), (slice(None), slice(64, 128)), (slice(10, 11), slice(0, 5))):
        assert torch.equal(checkpoint.read(name, part), whole[part])


def test_a_trainable_network_computes_by_the_references_and_takes_gradients(pristine) -> None:
    network = load_model(pristine(), dtype="bf16", trainable=True)
    assert network.training and network.backend is REFERENCE
    network(dense_batch([[1, 2, 300]], network.config.position, training=True)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    frozen = load_model(pristine(), dtype="bf16")
    assert not frozen.training and not any(parameter.requires_grad for parameter in frozen.parameters())
