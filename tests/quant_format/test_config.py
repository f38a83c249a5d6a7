"""GptqConfig: reads and writes the published keys, and rejects unsupported values with a reason."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.quant_format.config import GptqConfig

# The quantization_config of Qwen-72B-Chat-Int4, key by key.
PUBLISHED = {
    "bits": 4,
    "group_size": 128,
    "damp_percent": 0.01,
    "desc_act": False,
    "static_groups": False,
    "sym": True,
    "true_sequential": True,
    "model_name_or_path": None,
    "model_file_base_name": "model",
    "quant_method": "gptq",
}


def read(**changes: Any) -> GptqConfig:
    return GptqConfig.from_dict({**PUBLISHED, **changes}, "config.json")


def test_the_published_config_is_written_back_key_by_key() -> None:
    config = read()
    assert json.dumps(config.to_quantization_config()) == json.dumps(PUBLISHED)
    assert list(config.to_dict()) == [key for key in PUBLISHED if key != "quant_method"]


def test_a_stated_format_is_written_back() -> None:
    config = read(checkpoint_format="gptq_v2")
    assert config.to_dict()["checkpoint_format"] == "gptq_v2"
    assert GptqConfig.from_dict(config.to_dict(), "quantize_config.json") == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 2}, "bits is 2; only 4 and 8"),
        ({"bits": 3}, "bits is 3"),
        ({"bits": 4.0}, "bits is 4.0"),
        ({"bits": True}, "bits is True"),
        ({"bits": "4"}, "bits is '4'"),
        ({"bits": None}, "lacks bits"),
        ({"bits": [4]}, "bits is [4]"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": -2}, "group_size is -2"),
        ({"group_size": 128.0}, "group_size is 128.0"),
        ({"group_size": None, "sym": None}, "lacks group_size, sym"),
        ({"desc_act": 1}, "desc_act is 1; it must be true or false"),
        ({"sym": "true"}, "sym is 'true'"),
        ({"static_groups": 0}, "static_groups is 0"),
        ({"true_sequential": "yes"}, "true_sequential is 'yes'"),
        ({"damp_percent": 0}, "damp_percent is 0"),
        ({"damp_percent": float("nan")}, "damp_percent is nan"),
        ({"damp_percent": "0.01"}, "damp_percent is '0.01'"),
        ({"quant_method": "awq"}, "quant_method is 'awq'; only 'gptq'"),
        ({"quant_method": ["gptq"]}, "quant_method is ['gptq']"),
        ({"method": "qqq"}, "method is 'qqq'"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({"checkpoint_format": []}, "checkpoint_format is []"),
        ({"format": "bitblas"}, "'bitblas'"),
        ({"checkpoint_format": "gptq", "format": "gptq_v2"}, "checkpoint_format is 'gptq' and format is 'gptq_v2'"),
        ({"is_marlin_format": True}, "is_marlin_format is True"),
        ({"lm_head": True}, "lm_head is True"),
        ({"dynamic": {"-:mlp": {}}}, "dynamic is"),
        ({"pack_dtype": "int16"}, "pack_dtype is 'int16'"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(**changes)
    assert words in str(caught.value)
    assert str(caught.value).startswith("config.json: ")


@pytest.mark.parametrize("content", [[], "gptq", None, 4])
def test_a_config_that_is_no_object_is_refused(content: Any) -> None:
    with pytest.raises(CheckpointError, match="not a JSON object"):
        GptqConfig.from_dict(content, "config.json")


def test_keys_that_other_writers_add_are_read_without_a_word() -> None:
    added = {
        "is_marlin_format": False,
        "meta": {"quantizer": "any:1.0"},
        "lm_head": False,
        "dynamic": None,
        "pack_dtype": "int32",
        "method": "gptq",
        "checkpoint_format": "gptq",
        "format": "gptq",
        "use_exllama": False,
        "dataset": None,
        "tokenizer": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(**added) == read(checkpoint_format="gptq")


def test_an_unknown_key_is_named_in_a_warning() -> None:
    with pytest.warns(CheckpointWarning, match="rotate_hidden"):
        assert read(rotate_hidden=True) == read()


def test_optional_settings_that_are_absent_or_null_take_the_published_defaults() -> None:
    needed = {key: PUBLISHED[key] for key in ("bits", "group_size", "desc_act", "sym")}
    assert GptqConfig.from_dict(needed, "config.json") == read() == read(damp_percent=None, static_groups=None)


def test_the_format_is_read_from_either_key() -> None:
    assert read(format="gptq_v2").checkpoint_format == "gptq_v2"
    assert read(checkpoint_format="gptq_v2").checkpoint_format == "gptq_v2"


def test_a_wrong_argument_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match="bits is 5"):
        GptqConfig(bits=5, group_size=128, desc_act=False, sym=True)


@pytest.mark.parametrize(
    "change",
    [{"bits": 8}, {"group_size": 64}, {"desc_act": True}, {"sym": False}, {"checkpoint_format": "gptq_v2"}],
    ids=lambda change: next(iter(change)),
)
def test_two_files_that_disagree_are_refused_naming_both_values(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    first = read(checkpoint_format="gptq")
    with pytest.raises(CheckpointError) as caught:
        first.merge(read(**{"checkpoint_format": "gptq", **change}), "quantize_config.json")
    assert f"quantize_config.json: {name} is {value!r} here and {getattr(first, name)!r} in config.json" in str(
        caught.value
    )


def test_a_file_that_does_not_state_the_format_takes_the_other_ones() -> None:
    stated, silent = read(checkpoint_format="gptq_v2"), read()
    assert stated.merge(silent, "quantize_config.json") == stated
    assert silent.merge(stated, "quantize_config.json") == stated


def test_settings_that_do_not_touch_the_tensors_may_differ() -> None:
    assert read().merge(read(damp_percent=0.1, true_sequential=False), "quantize_config.json") == read()
