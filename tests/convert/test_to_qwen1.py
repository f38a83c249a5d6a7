"""From the Qwen2 layout back: what has a first-generation form runs here, and the rest is refused with the reason."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from qwartet.convert.to_qwen1 import convert_to_qwen1
from qwartet.convert.to_qwen2 import convert_to_qwen2
from qwartet.convert.tokenizer_json import tokenizer_json
from qwartet.errors import CheckpointError, SettingError
from qwartet.models.families import load_config
from qwartet.models.generation_config import load_generation_defaults
from qwartet.models.vocabulary_files import load_tokenizer
from tests.convert.stock import json_of, logits_of, tensors_of
from tests.models.broken import edit_json, edit_tensors, logits
from tests.tiny_checkpoint import VOCAB_SIZE, Copy, tiny_vocabulary

IDS = torch.tensor([1, 2, 3, 300, 5])  # those of `logits`
SMALL = {
    "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "intermediate_size": 96, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip


pytestmark = pytest.mark.filterwarnings("ignore::qwartet.errors.CheckpointWarning")


def foreign(directory: Path, family: str = "qwen2", **settings: Any) -> Any:
    """Saves a random model of transformers, and returns it."""
    torch.manual_seed(0)
    biases = {"attention_bias": True, "mlp_bias": True} if family == "llama" else {}
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **{**SMALL, **biases, **settings})
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.eval().save_pretrained(directory)
    return model


@pytest.mark.parametrize(("family", "theta"), [("qwen2", 10_000.0), ("llama", 500_000.0)])
def test_a_model_that_was_never_of_the_first_generation_runs_with_the_same_logits(
    tmp_path: Path, family: str, theta: float
) -> None:
    model = foreign(tmp_path / "source", family, rope_parameters={"rope_type": "default", "rope_theta": theta})
    convert_to_qwen1(tmp_path / "source", tmp_path / "converted")
    assert (logits(tmp_path / "converted") - logits_of(model, IDS)).abs().max() < 2e-4
    config = json_of(tmp_path / "converted" / "config.json")
    assert (config["model_type"], config["no_bias"], config["seq_length"]) == ("qwen", family == "qwen2", 256)
    convert_to_qwen2(tmp_path / "converted", tmp_path / "again")
    one, other = tensors_of(tmp_path / "source"), tensors_of(tmp_path / "again")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("chats", [True, False])
def test_its_vocabulary_and_sampling_defaults_come_along(tmp_path: Path, chats: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "converted"
    foreign(source)
    vocabulary = tiny_vocabulary()
    (source / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    eos, end = vocabulary.num_ranks, vocabulary.special_tokens["<|im_end|>"]
    sampling = {"eos_token_id": [end, eos] if chats else eos, "do_sample": True, "top_p": 0.7, "top_k": 20}
    (source / "generation_config.json").write_text(json.dumps(sampling), encoding="utf-8")
    convert_to_qwen1(source, target)
    assert load_tokenizer(target).mergeable_ranks == vocabulary.mergeable_ranks
    defaults = load_generation_defaults(target)
    assert (defaults.is_chat, defaults.top_p, defaults.top_k, defaults.eos_token_ids) == (chats, 0.7, 20, (eos,))
    assert json_of(target / "tokenizer_config.json")["tokenizer_class"] == "QWenTokenizer"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 1}, r"uses grouped-query attention \(2 heads, 1 key/value heads\)"),
        ({"tie_word_embeddings": True}, r"share one tensor \(tie_word_embeddings\)"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
            r"uses scaled positions \(YaRN\)",
        ),
        ({"head_dim": 32}, "2 heads of 32 do not add up to hidden_size 128"),
        ({"model_type": "llama"}, r"no biases on all linears"),
        ({"model_type": "llama", "attention_bias": True}, r"no biases on all linears"),
    ],
)
def test_what_the_first_generation_does_not_have_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    foreign(tmp_path / "source")
    edit_json(tmp_path / "source" / "config.json", changes)
    with pytest.raises(CheckpointError, match=f"{words}.*; this model has no first-generation form"):
        convert_to_qwen1(tmp_path / "source", tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_sliding_window": True}, "sliding windows are not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding windows are not supported"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ({"model_type": "llama", "attention_bias": True, "mlp_bias": True}, "only LlamaForCausalLM is supported"),
    ],
)
def test_what_no_family_has_is_refused_as_at_loading(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    foreign(tmp_path / "source")
    edit_json(tmp_path / "source" / "config.json", changes)
    with pytest.raises(CheckpointError, match=words):
        convert_to_qwen1(tmp_path / "source", tmp_path / "converted")


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("qwen", "is already first-generation Qwen; there is nothing to convert"),
        ("qwen3", "model_type is 'qwen3'; only qwen2 is converted to qwen1"),
        ("qwen2_moe", "model_type is 'qwen2_moe'"),
        (None, "model_type is None"),
        (["qwen2"], "model_type is"),
    ],
)
def test_other_families_are_refused(tmp_path: Path, model_type: Any, words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": model_type}))
    with pytest.raises(CheckpointError, match=words):
        convert_to_qwen1(tmp_path, tmp_path / "converted")


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
            "quantised by AWQ; only float and GPTQ",
        ),
        ({"quant_method": "fp8"}, "quant_method is 'fp8'; only 'gptq'"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128, "desc_act": False, "sym": True}, "bits is 3"),
    ],
)
def test_other_quantisations_are_refused(tmp_path: Path, quantization: dict[str, Any], words: str) -> None:
    foreign(tmp_path / "source")
    edit_json(tmp_path / "source" / "config.json", {"quantization_config": quantization})
    with pytest.raises(CheckpointError, match=words):
        convert_to_qwen1(tmp_path / "source", tmp_path / "converted")


def test_missing_and_odd_tensors_are_found(tmp_path: Path) -> None:
    foreign(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    shutil.copy(file, tmp_path / "kept")
    edit_tensors(file, lambda tensors: tensors.pop("model.layers.1.self_attn.k_proj.bias"))
    with pytest.raises(CheckpointError, match=r"missing tensors: model\.layers\.1\.self_attn\.k_proj\.bias"):
        convert_to_qwen1(tmp_path / "source", tmp_path / "converted")
    shutil.copy(tmp_path / "kept", file)
    edit_tensors(file, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64)}))
    with pytest.raises(CheckpointError, match=r"shape is \[64\]; config\.json implies \[128\]"):
        convert_to_qwen1(tmp_path / "source", tmp_path / "converted")


def test_parts_of_different_dtypes_are_refused(tmp_path: Path) -> None:
    foreign(tmp_path / "source")
    name = "model.layers.1.self_attn.k_proj.bias"
    edit_tensors(
        tmp_path / "source" / "model.safetensors", lambda tensors: tensors.update({name: tensors[name].bfloat16()})
    )
    with pytest.raises(CheckpointError, match=r"dtypes BF16 and F32 in parts of one module; save the checkpoint"):
        convert_to_qwen1(tmp_path / "source", tmp_path / "converted")


# The record of a conversion, which is a file like any other


@pytest.fixture
def converted(pristine, tmp_path: Path) -> Callable[..., Path]:
    """A converted tiny checkpoint, to be broken."""

    def get(**options: Any) -> Path:
        convert_to_qwen2(pristine(bits=4), tmp_path / "converted", **options)
        return tmp_path / "converted"

    return get


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("conversion.json", {"mlp_width": 0}, "mlp_width is 0"),
        ("conversion.json", {"mlp_width": 64}, "does not describe the model beside it: mlp_width differs"),
        ("conversion.json", {"mlp_width": True}, "mlp_width is True"),
        ("conversion.json", {"context": "8k"}, "context is '8k'"),
        ("conversion.json", {"biases": []}, r"biases is \[\]"),
        ("conversion.json", {"biases": {"layers.0.mlp.up": "I32"}}, "biases is"),
        ("conversion.json", {"biases": {"layers.9.mlp.up": "F16"}}, "beside it: conversion.json differs"),
        ("conversion.json", {"v2_zeros": "all"}, "v2_zeros is 'all'"),
        ("conversion.json", {"v2_zeros": ["lm_head"]}, "beside it: conversion.json differs"),
        ("conversion.json", {"more": 1}, "unexpected keys: "),
        ("config.json", {"hidden_size": 256, "num_attention_heads": 2}, "beside it: hidden_size differs"),
        ("config.json", {"vocab_size": 1024}, "beside it: vocab_size differs"),
        ("config.json", {"rotary_emb_base": 20000}, "beside it: rope_theta differs"),
        ("config.json", {"model_type": "qwen2"}, "only Qwen2ForCausalLM|model_type differs"),
        ("quantize_config.json", {"bits": 8}, "bits is 8 here and 4"),
    ],
)
def test_a_record_that_does_not_belong_to_the_tensors_is_refused(
    converted, tmp_path: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    directory = converted()
    edit_json(directory / "qwen1" / file, changes)
    with pytest.raises(CheckpointError, match=words):
        convert_to_qwen1(directory, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_another_vocabulary_than_the_records_is_refused(converted, tmp_path: Path) -> None:
    directory = converted()
    file = directory / "qwen1" / "qwen.tiktoken"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(CheckpointError, match=r"beside it: \.tiktoken differs; remove the folder qwen1"):
        convert_to_qwen1(directory, tmp_path / "back")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"beside it: \.tiktoken differs"):
        convert_to_qwen1(directory, tmp_path / "back")


def test_weights_where_padding_was_are_not_thrown_away(pristine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(pristine(bits=4), source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert_to_qwen2(source, tmp_path / "converted")
    record = tmp_path / "converted" / "qwen1"
    edit_json(record / "conversion.json", {"mlp_width": 64})
    config = json_of(record / "config.json")
    edit_json(record / "config.json", {"intermediate_size": config["intermediate_size"] // 2})
    with pytest.raises(CheckpointError, match="padding to remove is not zero; convert the original checkpoint again"):
        convert_to_qwen1(tmp_path / "converted", tmp_path / "back")


def test_trained_weights_are_those_that_come_back(pristine, tmp_path: Path) -> None:
    convert_to_qwen2(pristine(), tmp_path / "converted")

    def train(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.k_proj.weight"] += 1

    edit_tensors(tmp_path / "converted" / "model.safetensors", train)
    convert_to_qwen1(tmp_path / "converted", tmp_path / "back")
    name = "transformer.h.0.attn.c_attn.weight"
    one, other = tensors_of(tmp_path / "back")[name], tensors_of(pristine())[name]
    assert torch.equal(one[:128], other[:128]) and torch.equal(one[256:], other[256:])
    assert torch.equal(one[128:256], other[128:256] + 1)


def test_a_bias_that_the_original_lacks_is_not_thrown_away(checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint()

    def add(name: str, value: float) -> Callable[[dict[str, Tensor]], None]:
        new = {name.format(layer): torch.full((128,), value, dtype=torch.bfloat16) for layer in range(2)}
        return lambda tensors: tensors.update(new)

    edit_tensors(directory / "model.safetensors", add("transformer.h.{}.mlp.w1.bias", 0.5))
    assert convert_to_qwen2(directory, tmp_path / "converted").layout == "llama"
    edit_tensors(tmp_path / "converted" / "model.safetensors", add("model.layers.{}.mlp.gate_proj.bias", 0.25))
    with pytest.raises(CheckpointError, match="is not zero, but the original checkpoint has no such bias"):
        convert_to_qwen1(tmp_path / "converted", tmp_path / "back")
    shutil.rmtree(tmp_path / "converted" / "qwen1")
    convert_to_qwen1(tmp_path / "converted", tmp_path / "back")
    biases = tensors_of(tmp_path / "back")
    assert (biases["transformer.h.0.mlp.w2.bias"] == 0.25).all() and (
        biases["transformer.h.0.mlp.w1.bias"] == 0.5
    ).all()
    assert json_of(tmp_path / "back" / "config.json")["no_bias"] is False


def test_a_bias_that_qwen2_does_not_have_is_refused(pristine, tmp_path: Path) -> None:
    convert_to_qwen2(pristine(), tmp_path / "converted")
    bias = torch.ones(128, dtype=torch.bfloat16)
    edit_tensors(
        tmp_path / "converted" / "model.safetensors",
        lambda tensors: tensors.update({f"model.layers.{layer}.mlp.up_proj.bias": bias.clone() for layer in range(2)}),
    )
    with pytest.raises(CheckpointError, match="is not zero, but linears of this kind have no bias in this family"):
        convert_to_qwen1(tmp_path / "converted", tmp_path / "back")


def test_checkpoint_format_of_a_float_model_is_refused(pristine, tmp_path: Path) -> None:
    convert_to_qwen2(pristine(), tmp_path / "converted")
    with pytest.raises(SettingError, match="is not GPTQ; leave it out"):
        convert_to_qwen1(tmp_path / "converted", tmp_path / "back", checkpoint_format="gptq")


def test_the_converted_original_has_its_own_config_again(converted, tmp_path: Path, pristine) -> None:
    directory = converted(context=64)
    convert_to_qwen1(directory, tmp_path / "back")
    assert load_config(tmp_path / "back") == load_config(pristine(bits=4))
