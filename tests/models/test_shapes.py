"""The published sizes are those of the published files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import get_args

import pytest

from qwartet.errors import SettingError
from qwartet.models.families import parse_config
from qwartet.models.generation_config import parse_generation_config
from qwartet.models.shapes import SHAPES, ShapeName, config_json, generation_config_json, gptq_config

# As the model hub counts them from the headers of the float checkpoints.
PUBLISHED_PARAMETERS = {"1.8b": 1_836_828_672, "7b": 7_721_324_544, "14b": 14_167_290_880, "72b": 72_287_920_128}


def test_every_name_has_a_shape_that_knows_its_name() -> None:
    assert [shape.name for shape in SHAPES.values()] == list(SHAPES) == list(get_args(ShapeName))


@pytest.mark.parametrize("name", SHAPES)
def test_a_config_is_read_without_a_warning_and_has_the_published_number_of_parameters(name: ShapeName) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = parse_config(config_json(SHAPES[name], None), Path("config.json"))
    assert config.num_parameters == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_file_holds_twice_the_width_of_the_mlp(name: ShapeName) -> None:
    raw = config_json(SHAPES[name], None)
    assert parse_config(raw, Path("config.json")).intermediate_size * 2 == raw["intermediate_size"]


@pytest.mark.parametrize(
    ("name", "theta", "train_length", "max_length", "extends"),
    [
        ("1.8b", 10_000, 8192, 8192, True),
        ("7b", 10_000, 8192, 32_768, True),
        ("14b", 10_000, 2048, 8192, True),
        ("72b", 1_000_000, 32_768, 32_768, False),
    ],
)
def test_positions_are_the_published_ones(
    name: ShapeName, theta: int, train_length: int, max_length: int, extends: bool
) -> None:
    position = parse_config(config_json(SHAPES[name], None), Path("config.json")).position
    assert (position.rope_theta, position.train_length, position.max_length) == (theta, train_length, max_length)
    assert position.use_dynamic_ntk is position.use_logn_attn is extends
    assert position.rotary_dim == 128


def test_int4_is_the_published_quantization_config_and_fp16() -> None:
    raw = config_json(SHAPES["72b"], gptq_config("int4"))
    assert raw["quantization_config"] == {
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
    assert (raw["fp16"], raw["bf16"], raw["fp32"]) == (True, False, False)


def test_a_float_config_does_not_speak_of_quantisation() -> None:
    raw = config_json(SHAPES["7b"], gptq_config("bf16"))
    assert "quantization_config" not in raw and raw["fp16"] is False


@pytest.mark.parametrize("name", SHAPES)
def test_it_chats_and_ends_at_the_published_special_token(name: ShapeName) -> None:
    defaults = parse_generation_config(generation_config_json(SHAPES[name]), Path("generation_config.json"))
    assert defaults.is_chat and defaults.eos_token_ids == (151_643,)
    assert generation_config_json(SHAPES[name], eos_token_id=7)["eos_token_id"] == 7


def test_int8_and_other_settings_of_gptq_are_taken_over() -> None:
    config = gptq_config("int8", group_size=64, desc_act=True)
    assert config is not None
    assert (config.bits, config.group_size, config.desc_act, config.sym) == (8, 64, True, True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "bf16", "group_size": 128}, "belong to GPTQ"),
        ({"precision": "bf16", "desc_act": True}, "belong to GPTQ"),
        ({"precision": "int4", "group_size": 0}, "group_size is 0"),
        ({"precision": "int3"}, "must be one of int4, int8, bf16"),
        ({"precision": "bf16", "method": "awq"}, "bf16 is not quantised; leave out the format awq"),
        ({"precision": "int8", "method": "awq"}, "bits is 8; AWQ is supported at 4 bits"),
        ({"precision": "int4", "method": "awq", "desc_act": True}, "desc_act belongs to GPTQ"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        gptq_config(**settings)
