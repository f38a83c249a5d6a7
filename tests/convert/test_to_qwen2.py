"""A converted checkpoint gives the original's logits in stock transformers, and comes back bit for bit."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet.convert.to_qwen1 import convert_to_qwen1
from qwartet.convert.to_qwen2 import Converted, convert_to_qwen2, padded_width
from qwartet.errors import CheckpointWarning, SettingError
from qwartet.models.families import load_config
from qwartet.models.load import load_gptq_config
from tests.convert.stock import FLOATS, QUANTIZED, dequantized, greedy, json_of, logits_of, stock_model, tensors_of
from tests.golden_data import golden_path
from tests.models.broken import edit_json, edit_tensors
from tests.tiny_checkpoint import Copy

TOLERANCE = 2e-4
GOLDEN_OF = {"gptq-int4-v2zeros": "gptq-int4"}  # the same weights


@dataclass(frozen=True)
class Conversion:
    """A converted golden checkpoint and the warnings on the way."""

    source: Path
    directory: Path
    result: Converted
    told: list[str]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Conversion]:
    """Converts a golden checkpoint, once for all tests."""
    made: dict[str, Conversion] = {}

    def get(name: str, **options: Any) -> Conversion:
        key = repr((name, options))
        if key not in made:
            source, directory = golden_path(name), tmp_path_factory.mktemp("converted") / "model"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", CheckpointWarning)
                result = convert_to_qwen2(source, directory, **options)
            made[key] = Conversion(source, directory, result, [str(one.message) for one in caught])
        return made[key]

    return get


def golden_of(name: str) -> dict[str, Tensor]:
    return load_file(golden_path(GOLDEN_OF.get(name, name)) / "golden.safetensors")


@pytest.mark.parametrize("name", ["tiny-72b", "tiny-72b-base-sharded", *QUANTIZED])
def test_logits_and_greedy_ids_are_the_originals(converted, name: str) -> None:
    found, golden = converted(name), golden_of(name)
    model = stock_model(found.directory)
    has_all_biases = name == "gptq-int8-allbias"
    assert type(model).__name__ == ("LlamaForCausalLM" if has_all_biases else "Qwen2ForCausalLM")
    assert found.result.layout == ("llama" if has_all_biases else "qwen2")
    difference = logits_of(model, golden["prompt_ids"]) - golden["logits"]
    assert difference.abs().max() < TOLERANCE
    assert torch.equal(greedy(model, golden["prompt_ids"], len(golden["greedy_ids"])), golden["greedy_ids"])


def test_a_left_padded_batch_gives_the_originals_logits(converted) -> None:
    golden = golden_of("tiny-72b")
    ids, mask = golden["batch.input_ids"].long(), golden["batch.attention_mask"].long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model = stock_model(converted("tiny-72b").directory)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=positions).logits
    assert (logits[:, -16:] - golden["batch.logits_last16"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", [*FLOATS, *QUANTIZED])
def test_it_comes_back_bit_for_bit(converted, tmp_path: Path, name: str) -> None:
    options = {"ranks": 2} if name in QUANTIZED else {"context": 100} if name == "tiny-7b" else {}
    found = converted(name, **options)
    convert_to_qwen1(found.directory, tmp_path / "back")
    assert_same(tmp_path / "back", found.source)


def assert_same(directory: Path, source: Path) -> None:
    """Equal names, dtypes and bits of all tensors, and equal bytes of the files beside them."""
    ours, theirs = tensors_of(directory), tensors_of(source)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "quantize_config.json", "qwen.tiktoken")
    for name in names:
        assert (directory / name).exists() == (source / name).exists(), name
        if (source / name).exists():
            assert (directory / name).read_bytes() == (source / name).read_bytes(), name


def test_zeros_are_stored_one_too_low_whatever_the_original_stored(converted) -> None:
    one, other = tensors_of(converted("gptq-int4").directory), tensors_of(converted("gptq-int4-v2zeros").directory)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    qzeros = {int(word) for name, tensor in one.items() if name.endswith("qzeros") for word in tensor.unique()}
    assert qzeros == {0x77777777}


def test_biases_of_zeros_are_left_out_and_others_stay(converted) -> None:
    quantized, all_biases = tensors_of(converted("gptq-int4").directory), converted("gptq-int8-allbias").directory
    biased = {name.split(".")[-2] for name in quantized if name.endswith(".bias")}
    assert biased == {"q_proj", "k_proj", "v_proj"}
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")
    found = {name.split(".")[-2] for name in tensors_of(all_biases) if name.endswith(".bias")}
    assert found == set(names)
    config = json_of(all_biases / "config.json")
    assert config["attention_bias"] is config["mlp_bias"] is True


def test_one_real_bias_puts_the_model_into_the_llama_layout(checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint()

    def add_bias(tensors: dict[str, Tensor]) -> None:
        for layer in range(2):
            tensors[f"transformer.h.{layer}.mlp.w1.bias"] = torch.zeros(128, dtype=torch.bfloat16)

    edit_tensors(directory / "model.safetensors", add_bias)
    assert convert_to_qwen2(directory, tmp_path / "zeros").layout == "qwen2"
    edit_tensors(directory / "model.safetensors", lambda all: all["transformer.h.1.mlp.w1.bias"].fill_(0.5))
    assert convert_to_qwen2(directory, tmp_path / "real").layout == "llama"
    biases = tensors_of(tmp_path / "real")
    assert biases["model.layers.1.mlp.up_proj.bias"].unique().tolist() == [0.5]
    assert not biases["model.layers.1.mlp.down_proj.bias"].any()
    for form in ("zeros", "real"):
        convert_to_qwen1(tmp_path / form, tmp_path / f"{form}-back")
    assert_same(tmp_path / "real-back", directory)
    assert not tensors_of(tmp_path / "zeros-back")["transformer.h.1.mlp.w1.bias"].any()


@pytest.mark.parametrize("name", QUANTIZED)
def test_padding_by_whole_groups_of_zeros_is_exact(converted, name: str) -> None:
    found, golden = converted(name, ranks=2), golden_of(name)
    assert (found.result.mlp_width, found.result.zero_channels) == (512, 128)
    assert json_of(found.directory / "config.json")["intermediate_size"] == 512
    model, plain = stock_model(found.directory), stock_model(converted(name).directory)
    assert (logits_of(model, golden["prompt_ids"]) - golden["logits"]).abs().max() < TOLERANCE
    for wide, narrow in zip(model.model.layers, plain.model.layers, strict=True):
        assert torch.equal(wide.mlp.down_proj.weight[:, :384], narrow.mlp.down_proj.weight)
        assert torch.equal(wide.mlp.up_proj.weight[:384], narrow.mlp.up_proj.weight)
        rest = (wide.mlp.down_proj.weight[:, 384:], wide.mlp.up_proj.weight[384:], wide.mlp.gate_proj.weight[384:])
        assert not any(bool(part.any()) for part in rest)


@pytest.mark.parametrize("name", ["gptq-int4", "gptq-int8-allbias"])
def test_each_rank_of_a_padded_model_can_dequantise_its_shard_alone(converted, name: str) -> None:
    """What vLLM does with mlp.down: rows of qweight, and as many rows of scales as those hold groups."""
    directory = converted(name, ranks=2).directory
    tensors, bits = tensors_of(directory), json_of(directory / "config.json")["quantization_config"]["bits"]
    prefix = "model.layers.0.mlp.down_proj."
    linear = {leaf: tensors[prefix + leaf] for leaf in ("qweight", "qzeros", "scales", "g_idx")}
    whole = dequantized(**linear, bits=bits)
    for rank in range(2):
        part = {leaf: tensor.chunk(2)[rank] for leaf, tensor in linear.items()}
        part["g_idx"] = torch.arange(256) // 128
        assert torch.equal(dequantized(**part, bits=bits), whole.chunk(2, dim=1)[rank])


def test_a_float_mlp_that_does_not_divide_is_padded_exactly(tmp_path: Path) -> None:
    source = tmp_path / "odd"
    source.mkdir()
    config = json_of(golden_path("tiny-72b") / "config.json") | {"intermediate_size": 2 * 383, "seq_length": 64}
    (source / "config.json").write_text(json.dumps(config))
    tensors = tensors_of(golden_path("tiny-72b"))
    for name in tensors:
        if ".w1." in name or ".w2." in name:
            tensors[name] = tensors[name][:383].contiguous()
        elif "mlp.c_proj" in name:
            tensors[name] = tensors[name][:, :383].contiguous()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.warns(CheckpointWarning):
        plain = convert_to_qwen2(source, tmp_path / "plain")
        padded = convert_to_qwen2(source, tmp_path / "padded", ranks=2)
    assert (plain.mlp_width, padded.mlp_width) == (383, 512)
    ids = torch.arange(40)
    one, other = (logits_of(stock_model(tmp_path / name), ids) for name in ("plain", "padded"))
    assert (one - other).abs().max() < 2e-5
    convert_to_qwen1(tmp_path / "padded", tmp_path / "back")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in tensors_of(tmp_path / "back").items())


@pytest.mark.parametrize(
    ("shape", "bits", "ranks", "width"),
    [
        ((2048, 16, 5504), 4, 2, 44 * 128),  # 1.8B: 43 groups
        ((4096, 32, 11008), 4, 4, 88 * 128),  # 7B: 86
        ((4096, 32, 11008), 4, 2, 86 * 128),
        ((5120, 40, 13696), 8, 2, 108 * 128),  # 14B: 107
        ((8192, 64, 24576), 4, 8, 192 * 128),  # 72B: 192
        ((2048, 16, 5504), None, 2, 5504),  # floats can be cut anywhere
        ((2048, 16, 5504), 4, 1, 5504),
    ],
)
def test_the_padded_width_is_that_of_whole_groups_for_each_rank(
    shape: tuple[int, int, int], bits: int | None, ranks: int, width: int
) -> None:
    config = load_config(golden_path("gptq-int4"))
    hidden, heads, mlp = shape
    config = replace(config, hidden_size=hidden, num_heads=heads, intermediate_size=mlp)
    gptq = None if bits is None else load_gptq_config(golden_path("gptq-int4"))
    assert padded_width(config, gptq, ranks) == width


@pytest.mark.parametrize(("ranks", "words"), [(0, "must divide"), (3, "must divide"), (4, "must divide")])
def test_ranks_that_attention_cannot_be_shared_by_are_refused(tmp_path: Path, ranks: int, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        convert_to_qwen2(golden_path("tiny-72b"), tmp_path / "x", ranks=ranks)
    assert not list(tmp_path.iterdir())


# NTK and LogN


@pytest.mark.parametrize("length", [100, 127, 128])
def test_a_model_with_ntk_and_logn_is_exact_up_to_its_trained_length(converted, length: int) -> None:
    found, golden = converted("tiny-7b"), golden_of("tiny-7b")
    assert found.result.context == json_of(found.directory / "config.json")["max_position_embeddings"] == 128
    assert any("limited to the trained length of 128 tokens" in text for text in found.told)
    logits = logits_of(stock_model(found.directory), golden[f"p{length}.ids"])
    assert (logits[golden[f"p{length}.positions"].long()] - golden[f"p{length}.logits"]).abs().max() < TOLERANCE


@pytest.mark.parametrize(("length", "alpha", "difference"), [(200, 3, 0.9), (257, 7, 1.4), (600, 15, 4.3)])
def test_a_longer_context_has_the_ntk_of_its_length_and_lacks_logn_alone(
    converted, length: int, alpha: int, difference: float
) -> None:
    """The differences are those in docs/convert.md."""
    found, golden = converted("tiny-7b", context=length), golden_of("tiny-7b")
    assert (found.result.context, found.result.ntk_alpha) == (length, alpha)
    assert any("has no LogN attention" in text and "beyond 128 tokens" in text for text in found.told)
    assert any(f"NTK base for {length} tokens (alpha {alpha})" in text for text in found.told)
    model, ids = stock_model(found.directory), golden[f"p{length}.ids"]
    wanted, positions = golden[f"p{length}.logits"], golden[f"p{length}.positions"].long()
    assert round(float((logits_of(model, ids)[positions] - wanted).abs().max()), 1) == difference
    scale_queries_by_logn(model, train_length=128)
    assert (logits_of(model, ids)[positions] - wanted).abs().max() < TOLERANCE


def scale_queries_by_logn(model: Any, train_length: int) -> None:
    """What the Qwen2 layout cannot say: queries times log(position) / log(train_length), beyond it."""

    def scaled(_module: Any, _inputs: Any, queries: Tensor) -> Tensor:
        positions = torch.arange(1, queries.shape[1] + 1).clamp(min=train_length)
        return queries * (positions.double().log() / math.log(train_length)).float()[None, :, None]

    for layer in model.model.layers:
        layer.self_attn.q_proj.register_forward_hook(scaled)


def test_a_context_up_to_the_trained_length_changes_nothing_else(converted) -> None:
    found = converted("tiny-7b", context=100)
    config = json_of(found.directory / "config.json")
    assert (config["max_position_embeddings"], config["rope_theta"], found.result.ntk_alpha) == (100, 10000.0, 1)
    assert not any("LogN" in text or "NTK" in text for text in found.told)


def test_a_model_without_them_keeps_its_context(converted) -> None:
    found = converted("tiny-72b")
    assert found.result.context == 32768 and [text for text in found.told if "tokenizer" not in text] == []


@pytest.mark.parametrize("context", [0, 1, 32769])
def test_a_context_out_of_bounds_is_refused(tmp_path: Path, context: int) -> None:
    with pytest.raises(SettingError, match=r"--context is \d+; it must be between 2 and 32768"):
        convert_to_qwen2(golden_path("tiny-7b"), tmp_path / "x", context=context)
    assert not list(tmp_path.iterdir())


def test_act_order_is_kept_with_a_warning_that_vllm_refuses_it(converted) -> None:
    found = converted("gptq-int4-descact")
    assert any("uses act-order (desc_act), which vLLM 0.32 and later refuse" in text for text in found.told)
    assert json_of(found.directory / "config.json")["quantization_config"]["desc_act"] is True
    assert json_of(found.directory / "quantize_config.json")["desc_act"] is True


# Files


def test_the_configs_are_those_that_engines_read(converted) -> None:
    directory = converted("gptq-int4").directory
    config = json_of(directory / "config.json")
    settings = config.pop("quantization_config")
    assert (settings["quant_method"], settings["checkpoint_format"]) == ("gptq", "gptq")
    assert {key: settings[key] for key in ("bits", "group_size", "desc_act", "sym")} == {
        "bits": 4, "group_size": 128, "desc_act": False, "sym": True,
    }  # fmt: skip
    assert (config["torch_dtype"], config["rope_theta"], config["use_sliding_window"]) == ("float16", 1e6, False)
    sampling = json_of(directory / "generation_config.json")
    assert (sampling["do_sample"], sampling["top_k"], sampling["top_p"], sampling["repetition_penalty"]) == (
        True, 0, 0.8, 1.1,
    )  # fmt: skip
    assert sampling["eos_token_id"] == 509 and not {"chat_format", "max_window_size"} & sampling.keys()


@pytest.mark.parametrize("bits", [None, 4])
def test_shards_have_an_index_and_hold_the_same_tensors(pristine, tmp_path: Path, bits: int | None) -> None:
    source, told = pristine(bits=bits), []
    whole = convert_to_qwen2(source, tmp_path / "whole")
    parts = convert_to_qwen2(
        source, tmp_path / "parts", max_shard_bytes=100_000, on_bytes=lambda *count: told.append(count)
    )
    assert whole.files == ["model.safetensors"] and len(parts.files) > 3
    index = json_of(tmp_path / "parts" / "model.safetensors.index.json")
    assert sorted(set(index["weight_map"].values())) == parts.files
    assert sum(count for count, _ in told) == whole.bytes == index["metadata"]["total_size"]
    one, other = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert index["weight_map"].keys() == one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    stock_model(tmp_path / "parts")


def test_asymmetric_zeros_keep_the_version_that_they_state(checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint(bits=4)
    zeros = partial(edit_tensors, directory / "model.safetensors")

    def shift(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if name.endswith("qzeros"):
                tensors[name].fill_(0x66666666)

    zeros(shift)
    config = json_of(directory / "quantize_config.json") | {"sym": False, "checkpoint_format": "gptq_v2"}
    edit_json(directory / "quantize_config.json", config)
    edit_json(directory / "config.json", {"quantization_config": {**config, "quant_method": "gptq"}})
    convert_to_qwen2(directory, tmp_path / "converted")
    settings = json_of(tmp_path / "converted" / "config.json")["quantization_config"]
    assert (settings["sym"], settings["checkpoint_format"]) == (False, "gptq_v2")
    qzeros = {int(w) for n, t in tensors_of(tmp_path / "converted").items() if "qzeros" in n for w in t.unique()}
    assert qzeros == {0x66666666}
    convert_to_qwen1(tmp_path / "converted", tmp_path / "back")
    assert_same(tmp_path / "back", directory)
