"""AwqConfig: the keys of AutoAWQ, transformers and GPTQModel; what cannot be read is refused with what to do."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.quant_format.awq_config import AwqConfig
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.methods import parse_quantization_config

# The quantization_config of Qwen2.5-7B-Instruct-AWQ, key by key.
PUBLISHED = {
    "bits": 4,
    "group_size": 128,
    "modules_to_not_convert": None,
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}


def read(**changes: Any) -> GptqConfig:
    return parse_quantization_config({**PUBLISHED, **changes}, "config.json")


def test_the_published_config_is_written_back_key_by_key() -> None:
    config = read()
    assert config == AwqConfig.of(128)
    assert json.dumps(config.to_quantization_config()) == json.dumps(PUBLISHED)


def test_the_weights_in_memory_are_those_of_gptq_version_2() -> None:
    gptq = GptqConfig(bits=4, group_size=128, desc_act=False, sym=False, checkpoint_format="gptq_v2")
    assert read().as_gptq() == gptq and type(read().as_gptq()) is GptqConfig


@pytest.mark.parametrize(
    "values",
    [
        {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"},  # quant_config.json of AutoAWQ
        {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM", "modules_to_not_convert": None},
        {  # transformers 5
            "backend": "auto", "batch_size": 1, "bits": 4, "damp_percent": 0.1, "desc_act": False, "dataset": None,
            "format": "gemm", "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq", "sym": True,
            "true_sequential": True, "version": "gemm", "zero_point": True, "act_group_aware": True, "meta": None,
        },
        {  # GPTQModel
            "bits": 4, "checkpoint_format": "gemm", "desc_act": False, "format": "gemm", "group_size": 128,
            "lm_head": False, "meta": {"quantizer": ["any:1.0"]}, "method": "awq", "pack_dtype": "int32",
            "quant_method": "awq", "version": "gemm", "zero_point": True,
        },
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        {
            **PUBLISHED, "do_fuse": False, "fuse_max_seq_len": None, "modules_to_fuse": None, "backend": "autoawq",
            "exllama_config": None,
        },
    ],
)  # fmt: skip
def test_configs_of_other_writers_are_read_without_a_word(values: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_quantization_config(values, "config.json") == AwqConfig.of(128)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(({"version": version}, f"version is '{version}'") for version in ("gemv", "gemv_fast", "marlin", "exllama")),
        ({"version": "GEMV"}, "use a checkpoint of version gemm, or quantise the float model with `qwartet quantize`"),
        ({"version": 1}, "version is 1"),
        ({"backend": "llm-awq"}, "version is 'llm-awq'"),
        ({"format": "gemv"}, "version is 'gemm', but format is 'gemv'"),
        ({"bits": 8}, "bits is 8; AWQ is supported at 4 bits"),
        ({"bits": 3}, "bits is 3"),
        ({"bits": "4"}, "bits is '4'"),
        ({"bits": None}, "lacks bits"),
        ({"w_bit": 8}, "bits is 4, but w_bit is 8"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": None}, "lacks group_size"),
        ({"zero_point": "yes"}, "zero_point is 'yes'; it must be true or false"),
        ({"desc_act": True}, "desc_act is True; for AWQ, only False"),
        ({"lm_head": True}, "lm_head is True"),
        ({"pack_dtype": "int16"}, "pack_dtype is 'int16'"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert is 'lm_head'; it must be a list of names"),
        ({"modules_to_not_convert": [1]}, "modules_to_not_convert is [1]"),
        ({"modules_to_not_convert": [""]}, "modules_to_not_convert is ['']"),
        ({"quant_method": "fp8"}, "quant_method is 'fp8'; only 'gptq' and 'awq' are supported; use a GPTQ or AWQ"),
        ({"quant_method": ["awq"]}, "quant_method is ['awq']"),
        ({"method": "gptq"}, "quant_method is 'awq', but method is 'gptq'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(**changes)
    assert words in str(caught.value)
    assert str(caught.value).startswith("config.json: ")


@pytest.mark.parametrize("content", [[], "awq", 4])
def test_a_config_that_is_no_object_is_refused(content: Any) -> None:
    for parse in (parse_quantization_config, AwqConfig.from_dict):
        with pytest.raises(CheckpointError, match="not a JSON object"):
            parse(content, "config.json")


def test_an_unknown_key_is_named_in_a_warning() -> None:
    with pytest.warns(CheckpointWarning, match="rotate_hidden"):
        assert read(rotate_hidden=True) == read()


def test_without_zero_point_every_zero_is_8() -> None:
    assert read(zero_point=False).sym and not read().sym and not read(zero_point=None).sym


def test_modules_are_named_by_any_part_of_their_name() -> None:
    config = read(modules_to_not_convert=["lm_head", "self_attn", "layers.1.mlp.down_proj"])
    names = ["layers.1.mlp.down_proj", "layers.11.mlp.down_proj", "layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]
    assert [config.quantizes(f"model.{name}") for name in names] == [False, True, False, True]


def test_a_config_without_any_word_of_awq_is_one_of_gptq() -> None:
    values = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    assert type(parse_quantization_config(values, "quantize_config.json")) is GptqConfig


def test_two_files_that_disagree_are_refused() -> None:
    for other, words in (
        (read(group_size=64), "group_size is 64 here and 128 in config.json"),
        (GptqConfig(bits=4, group_size=128, desc_act=False, sym=False), "quant_method is 'gptq' here and 'awq'"),
    ):
        with pytest.raises(CheckpointError, match=words):
            read().merge(other, "quant_config.json")


def test_a_file_that_does_not_name_float_modules_takes_the_other_ones() -> None:
    named, silent = read(modules_to_not_convert=["lm_head"]), read()
    assert named.merge(silent, "quant_config.json") == silent.merge(named, "quant_config.json") == named


def test_a_wrong_argument_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match="bits is 8; AWQ is supported at 4 bits"):
        AwqConfig.of(128, bits=8)
