"""AWQ checkpoints: the same logits as GPTQ files of the same weights, float linears among them, malformed files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet.checkpoint import weight_cache
from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.linear import Linear, QuantizedLinear
from qwartet.llm import LLM
from qwartet.models.families import layout_of, load_config
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_gptq_config, load_model
from qwartet.planning.stored_model import stored_model
from qwartet.quant_format.config import GptqConfig
from tests.kernels.random_weights import random_weight
from tests.models.broken import edit_json, edit_tensors, refused, set_tensor
from tests.quant_format.awq_reference import make_awq, pack
from tests.tiny_checkpoint import Copy

FILE = "model.safetensors"
W1 = "transformer.h.0.mlp.w1"
IDS = [1, 2, 3, 300, 5]


def logits(directory: Path, dtype: str = "fp32", **settings) -> Tensor:
    model = load_model(directory, dtype=dtype, **settings)
    with torch.no_grad():
        return model(dense_batch([IDS], model.config.position))


@pytest.fixture
def gptq(checkpoint: Copy) -> Path:
    """A GPTQ checkpoint with zeros from 0 to 15, in groups of 32."""
    return asymmetric(checkpoint(bits=4), 32)


def asymmetric(directory: Path, group_size: int) -> Path:
    """Replaces the linears of a tiny GPTQ checkpoint by random ones in version 2."""
    config = GptqConfig(bits=4, group_size=group_size, desc_act=False, sym=False, checkpoint_format="gptq_v2")
    tensors = load_file(directory / FILE)
    for seed, name in enumerate(sorted(name for name in tensors if name.endswith(".qweight"))):
        name = name.removesuffix(".qweight")
        num_outputs = tensors[f"{name}.qweight"].shape[1]
        weight = random_weight(128, num_outputs, group_size=group_size, sym=False, seed=seed)
        found = {**weight.to_tensors(), "bias": tensors[f"{name}.bias"]}
        found["qzeros"] = pack_v2(weight.zeros())
        tensors |= {f"{name}.{leaf}": tensor.contiguous() for leaf, tensor in found.items()}
    save_file(tensors, directory / FILE, metadata={"format": "pt"})
    edit_json(directory / "config.json", {"quantization_config": config.to_quantization_config()})
    (directory / "quantize_config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    return directory


def pack_v2(zeros: Tensor) -> Tensor:
    words = sum(zeros[:, lane::8].long() << 4 * lane for lane in range(8))
    assert isinstance(words, Tensor)
    return torch.where(words < 2**31, words, words - 2**32).int()


@pytest.fixture
def pair(gptq: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same weights as GPTQ and as AWQ."""
    return gptq, make_awq(Path(shutil.copytree(gptq, tmp_path / "awq")))


# The same weights


@pytest.mark.parametrize(
    "settings", [{}, {"dtype": "bf16"}, {"dtype": "bf16", "activations": "int8"}, {"dtype": "fp16"}], ids=str
)
def test_logits_equal_those_of_the_same_weights_as_gptq_bit_for_bit(pair: tuple[Path, Path], settings: dict) -> None:
    gptq, awq = pair
    found = logits(awq, **settings)
    assert found.isfinite().all() and found.std() > 0
    assert torch.equal(found, logits(gptq, **settings))


def test_the_engine_answers_alike(pair: tuple[Path, Path]) -> None:
    gptq, awq = (LLM(directory, device="cpu") for directory in pair)
    assert torch.equal(awq.logits(IDS), gptq.logits(IDS))


@pytest.mark.parametrize("group_size", [16, 32, 64, 128, -1])
def test_every_group_size_is_read(checkpoint: Copy, tmp_path: Path, group_size: int) -> None:
    gptq = asymmetric(checkpoint(bits=4), group_size)
    awq = make_awq(Path(shutil.copytree(gptq, tmp_path / "awq")))
    assert torch.equal(logits(awq, "bf16"), logits(gptq, "bf16"))


def test_symmetric_zeros_are_read_with_and_without_zero_point(checkpoint: Copy, tmp_path: Path) -> None:
    source = checkpoint(bits=4)
    expected = logits(source)
    for zero_point in (True, False):
        awq = make_awq(Path(shutil.copytree(source, tmp_path / str(zero_point))), zero_point=zero_point)
        assert torch.equal(logits(awq), expected)
        assert torch.equal(logits(awq, "bf16"), logits(source, "bf16"))


def test_the_weight_cache_holds_the_same_as_a_start_without_it(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    expected = logits(pair[1], "bf16", weight_cache=False)
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    for _start in range(2):
        assert torch.equal(logits(pair[1], "bf16"), expected)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("is_awq", [False, True], ids=["gptq", "awq"])
def test_a_cache_leaves_out_linears_that_keep_the_layout_of_the_file(
    checkpoint: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, is_awq: bool
) -> None:
    directory = asymmetric(checkpoint(bits=4), 16)  # for which there is no native kernel

    def widen(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: t.float() for name, t in tensors.items() if name.endswith(".scales")})

    edit_tensors(directory / FILE, widen)
    if is_awq:
        make_awq(directory)
    expected = logits(directory, "bf16", weight_cache=False)
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    assert torch.equal(logits(directory, "bf16"), expected)
    assert not [str(one.message) for one in recwarn if "weight cache" in str(one.message)]


def write_family(directory: Path, family: str) -> Path:
    """A tiny GPTQ checkpoint of Qwen2 or Qwen3 with random weights: two heads that share keys, two blocks."""
    config = GptqConfig(bits=4, group_size=32, desc_act=False, sym=False, checkpoint_format="gptq_v2")
    raw = {
        "architectures": [f"{family.title()}ForCausalLM"], "model_type": family, "hidden_size": 128, "head_dim": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2, "intermediate_size": 256,
        "vocab_size": 512, "max_position_embeddings": 512, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float16",
        "quantization_config": config.to_quantization_config(),
    }  # fmt: skip
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    (directory / "quantize_config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for seed, module in enumerate(layout_of(load_config(directory))):
        for part, rows in module.parts:
            if module.kind == "linear":
                weight = random_weight(module.shape[1], rows, group_size=32, sym=False, seed=100 * seed + rows)
                found = {**weight.to_tensors(), "qzeros": pack_v2(weight.zeros())}
                if module.needs_bias:
                    found["bias"] = torch.randn(rows, generator=generator).half()
            else:
                found = {"weight": torch.randn(rows, *module.shape[1:], generator=generator).half()}
            tensors |= {f"{part}.{leaf}": tensor.contiguous() for leaf, tensor in found.items()}
    save_file(tensors, directory / FILE, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_parts_of_a_fused_linear_are_joined_as_those_of_gptq(tmp_path: Path, family: str, dtype: str) -> None:
    gptq = write_family(tmp_path / "gptq", family)
    awq = make_awq(Path(shutil.copytree(gptq, tmp_path / "awq")))
    found = logits(awq, dtype)
    assert found.isfinite().all() and found.std() > 0
    assert torch.equal(found, logits(gptq, dtype))


def test_a_fused_linear_of_which_one_part_is_a_float_is_refused(tmp_path: Path) -> None:
    awq = make_awq(write_family(tmp_path / "model", "qwen2"), floats=("layers.0.self_attn.q_proj",))
    name = "model.layers.0.self_attn.q_proj"
    words = f"missing tensors: {name}.qweight, {name}.qzeros, {name}.scales; all parts of a linear (q, k and v)"
    refused(awq, None, words)
    all_of_them = make_awq(write_family(tmp_path / "other", "qwen2"), floats=("layers.0.self_attn",))
    assert isinstance(load_model(all_of_them).get_submodule("layers.0.attention.qkv"), Linear)


# Linears that are floats


@pytest.mark.parametrize("floats", [("mlp.w1",), ("attn",), ("h.0.",), ("c_proj", "lm_head"), ("transformer",)])
@pytest.mark.parametrize("says_so", [True, False])
def test_float_linears_are_those_that_the_file_holds_as_floats(
    gptq: Path, tmp_path: Path, floats: tuple[str, ...], says_so: bool
) -> None:
    awq = make_awq(Path(shutil.copytree(gptq, tmp_path / "awq")), floats=floats)
    if not says_so:
        embedded = json.loads((awq / "config.json").read_text())["quantization_config"]
        edit_json(awq / "config.json", {"quantization_config": {**embedded, "modules_to_not_convert": None}})
    model = load_model(awq, dtype="fp32")
    layer = model.get_submodule("layers.0")
    kinds = {"mlp.up": "mlp.w1", "attention.qkv": "attn.c_attn", "mlp.down": "mlp.c_proj"}
    for name, disk in kinds.items():
        is_float = any(part in f"transformer.h.0.{disk}" for part in floats)
        assert isinstance(layer.get_submodule(name), Linear if is_float else QuantizedLinear)
    torch.testing.assert_close(logits(awq), logits(gptq), atol=2e-3, rtol=2e-3)  # floats are rounded to fp16
    found = inspect_checkpoint(awq)
    assert not found.problems and not found.warnings
    assert found.quantization is not None
    num_floats = sum(any(part in name for part in floats) for name in linears())
    assert found.quantization["num_sound_linears"] == found.quantization["num_linears"] == 10 - num_floats


def linears() -> list[str]:
    leaves = ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")
    return [f"transformer.h.{layer}.{leaf}" for layer in range(2) for leaf in leaves]


def test_float_and_quantised_linears_run_in_one_native_step_and_in_the_cache(
    gptq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    awq = make_awq(Path(shutil.copytree(gptq, tmp_path / "awq")), floats=("mlp.w1", "h.1.attn"))
    composed = logits(awq, "bf16", weight_cache=False)
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    llm = LLM(awq, device="cpu", dtype="bf16")
    assert torch.equal(llm.logits(IDS), composed)


def test_a_linear_that_is_missing_is_asked_for_in_the_form_that_the_config_says(gptq: Path) -> None:
    awq = make_awq(gptq, floats=("mlp.w2",))
    for leaf in ("qweight", "qzeros", "scales"):
        set_tensor(awq / FILE, f"{W1}.{leaf}", None)
    set_tensor(awq / FILE, "transformer.h.0.mlp.w2.weight", None)
    refused(awq, None, f"missing tensors: {W1}.qweight, {W1}.qzeros, {W1}.scales, transformer.h.0.mlp.w2.weight")


# What else reads a checkpoint


def test_inspect_and_plan_know_the_method(pair: tuple[Path, Path]) -> None:
    gptq, awq = (inspect_checkpoint(directory) for directory in pair)
    assert not awq.problems and not awq.warnings
    assert awq.quantization is not None and gptq.quantization is not None
    assert (awq.quantization["method"], gptq.quantization["method"]) == ("awq", "gptq")
    assert awq.quantization["num_sound_linears"] == 10
    assert awq.memory is not None and gptq.memory is not None
    assert awq.memory["weights_bytes"] <= gptq.memory["weights_bytes"]  # without biases of zeros
    assert stored_model(pair[1]).precision == "int4"


def test_the_older_file_of_the_settings_is_read_alone_and_beside_config_json(pair: tuple[Path, Path]) -> None:
    _gptq, awq = pair
    expected = logits(awq)
    old = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
    (awq / "quant_config.json").write_text(json.dumps(old))
    assert torch.equal(logits(awq), expected)
    assert next(one for one in inspect_checkpoint(awq).files if one["name"] == "quant_config.json")["is_used"]
    edit_json(awq / "config.json", {}, remove=("quantization_config",))
    assert torch.equal(logits(awq), expected)
    (awq / "quant_config.json").write_text(json.dumps({"lr": 1}))  # of another program
    assert load_gptq_config(awq) is None


def test_a_version_of_gptq_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(SettingError, match=r"checkpoint_format is 'gptq_v2', but .* is not GPTQ; leave it out"):
        load_model(pair[1], checkpoint_format="gptq_v2")


# Malformed files

BAD_TENSORS: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "words of another dtype": ("qweight", lambda t: t.long(), "dtype is int64; AWQ stores int32"),
    "words in one dimension": ("qweight", lambda t: t.flatten(), "it must have 2 dimensions"),
    "words of GPTQ": ("qweight", lambda t: t.reshape(16, 128), "has 16 words in a row and qweight 128"),
    "fewer outputs": ("qweight", lambda t: t[:, :8], "has 16 words in a row and qweight 8"),
    "fewer inputs": ("qweight", lambda t: t[:64], "so 2 groups for 64 inputs; the tensor has 4 groups"),
    "inputs that GPTQ cannot pack": ("qweight", lambda t: t[:100], "has 100 inputs; AWQ is supported for multiples"),
    "a group that is not whole": ("qweight", lambda t: t[:120], "group_size 32, which does not divide the 120 inputs"),
    "zeros of fewer outputs": ("qzeros", lambda t: t[:, :15], "has 15 words in a row and qweight 16"),
    "scales of fewer groups": ("scales", lambda t: t[:3], "shape is [3, 128]; qweight and qzeros imply [4, 128]"),
    "scales that are integers": ("scales", lambda t: t.int(), "dtype is int32; AWQ stores float16"),
    "scales that are not finite": ("scales", lambda t: t * torch.nan, "512 of 512 values are NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_contradict_each_other_are_refused(pair: tuple[Path, Path], case: str) -> None:
    leaf, change, words = BAD_TENSORS[case]
    path = pair[1] / FILE
    set_tensor(path, f"{W1}.{leaf}", change(load_file(path)[f"{W1}.{leaf}"]))
    with pytest.raises(CheckpointError) as caught:
        load_model(pair[1])
    assert words in str(caught.value) and str(caught.value.tensor).startswith(W1)
    assert any(words in problem for problem in inspect_checkpoint(pair[1]).problems)


@pytest.mark.parametrize("leaf", ["qweight", "qzeros"])
def test_words_that_a_download_left_out_are_told_of(pair: tuple[Path, Path], leaf: str) -> None:
    edit_tensors(pair[1] / FILE, lambda tensors: tensors[f"{W1}.{leaf}"][2:].zero_())
    with pytest.warns(CheckpointWarning, match=rf"zeros where weights should be: {W1}.{leaf} \(\d+ % to 100 %\)"):
        load_model(pair[1])


def test_a_bias_of_another_length_is_refused(pair: tuple[Path, Path]) -> None:
    set_tensor(pair[1] / FILE, "transformer.h.0.attn.c_attn.bias", torch.zeros(8, dtype=torch.float16))
    refused(pair[1], FILE, "shape is [8]", tensor="transformer.h.0.attn.c_attn.bias")


@pytest.mark.parametrize("group_size", [64, 96])
def test_a_group_size_that_is_not_that_of_the_tensors_is_refused(pair: tuple[Path, Path], group_size: int) -> None:
    embedded = json.loads((pair[1] / "config.json").read_text())["quantization_config"]
    edit_json(pair[1] / "config.json", {"quantization_config": {**embedded, "group_size": group_size}})
    with pytest.raises(CheckpointError, match=f"the config says group_size {group_size}"):
        load_model(pair[1])


def test_zeros_that_are_not_8_contradict_zero_point_false(pair: tuple[Path, Path]) -> None:
    embedded = json.loads((pair[1] / "config.json").read_text())["quantization_config"]
    edit_json(pair[1] / "config.json", {"quantization_config": {**embedded, "zero_point": False}})
    with pytest.raises(
        CheckpointError, match="zero_point is false, but the zeros are not all 8; set zero_point to true"
    ):
        load_model(pair[1])
    one_too_low = pack(torch.full((4, 128), 7, dtype=torch.uint8))  # never taken for version 1 of GPTQ
    for name in [name for name in load_file(pair[1] / FILE) if name.endswith("qzeros")]:
        zeros = one_too_low.repeat(1, 3) if "c_attn" in name else one_too_low
        set_tensor(pair[1] / FILE, name, zeros)
    with pytest.raises(CheckpointError, match="the zeros are not all 8"):
        load_model(pair[1])


def test_a_group_index_that_is_not_in_order_is_refused(pair: tuple[Path, Path]) -> None:
    order = (torch.arange(128) // 32).int()
    set_tensor(pair[1] / FILE, f"{W1}.g_idx", order)
    assert torch.equal(logits(pair[1]), logits(pair[0]))
    set_tensor(pair[1] / FILE, f"{W1}.g_idx", order.flip(0))
    refused(pair[1], FILE, "input 0 is in group 3, not 0", tensor=f"{W1}.g_idx")
