"""config.json of Qwen2 and Qwen3 as transformers 4 and 5 write it, the published sizes, and every value refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.layers.rotary import RotaryTable, YarnConfig
from qwartet.models.config import ModelConfig
from qwartet.models.families import FAMILIES, check_first_generation, layout_of, parse_config
from qwartet.models.generation_config import parse_generation_config
from qwartet.models.model_types import MODEL_TYPES
from qwartet.models.shapes import ALL_SHAPES, SHAPES, config_json, generation_config_json, gptq_config, published_size

PATH = Path("dir/config.json")
LATER = [name for name in ALL_SHAPES if name not in SHAPES]
BASE: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944, "model_type": "qwen2",
    "max_position_embeddings": 32768, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28, "vocab_size": 152064,
}  # fmt: skip
QWEN3 = BASE | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def parsed(raw: dict[str, Any]) -> ModelConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return parse_config(raw, PATH)


def test_each_family_has_the_model_type_under_which_it_is_listed() -> None:
    assert tuple(FAMILIES) == MODEL_TYPES
    assert all(family.model_type == name for name, family in FAMILIES.items())


# As the model cards state them, in billions: all parameters, and those outside of the embeddings.
PUBLISHED = {
    "qwen2.5-0.5b": (0.49, 0.36), "qwen2.5-1.5b": (1.54, 1.31), "qwen2.5-3b": (3.09, 2.77), "qwen2.5-7b": (7.61, 6.53),
    "qwen2.5-14b": (14.7, 13.1), "qwen2.5-32b": (32.5, 31.0), "qwen2.5-72b": (72.7, 70.0), "qwen3-0.6b": (0.6, 0.44),
    "qwen3-1.7b": (1.7, 1.4), "qwen3-4b": (4.0, 3.6), "qwen3-8b": (8.2, 6.95), "qwen3-14b": (14.8, 13.2),
    "qwen3-32b": (32.8, 31.2),
}  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_the_published_sizes_have_the_published_number_of_parameters(name: str) -> None:
    config = parsed(config_json(ALL_SHAPES[name], None))
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tied_embeddings else 2)
    everything, others = (f"{count / 1e9:.4f}" for count in (config.num_parameters, config.num_parameters - embeddings))
    assert float(everything) == pytest.approx(PUBLISHED[name][0], rel=0.015)
    assert float(others) == pytest.approx(PUBLISHED[name][1], rel=0.015)


@pytest.mark.parametrize("name", LATER)
def test_the_parameters_are_those_of_the_layout(name: str) -> None:
    config = parsed(config_json(ALL_SHAPES[name], None))
    layout = layout_of(config)
    modules = [spec for spec in layout if not (spec.kind == "head" and layout.is_tied)]
    total = sum(torch.Size(spec.shape).numel() + (spec.shape[0] if spec.needs_bias else 0) for spec in modules)
    assert total == config.num_parameters
    assert config.num_linear_parameters == sum(
        torch.Size(spec.shape).numel() for spec in modules if spec.kind == "linear"
    )
    assert all(sum(rows for _name, rows in spec.parts) == spec.shape[0] for spec in layout)


@pytest.mark.parametrize("name", LATER)
def test_their_sampling_defaults_are_read_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defaults = parse_generation_config(generation_config_json(ALL_SHAPES[name]), PATH)
    assert defaults.eos_token_ids == (151_645, 151_643) and defaults.do_sample and defaults.top_k == 20


def test_a_quantised_72b_has_the_wider_mlp_of_its_files() -> None:
    shape = ALL_SHAPES["qwen2.5-72b"]
    assert parsed(config_json(shape, gptq_config("int4"))).intermediate_size == 29_696
    assert parsed(config_json(shape, None)).intermediate_size == 29_568


def test_sizes_of_other_families_are_not_taken_for_those_of_the_first() -> None:
    assert published_size(8192, 80) == "72b"
    assert published_size(8192, 80, "qwen2") is None


def test_every_field_comes_from_its_key() -> None:
    config = parsed(BASE)
    assert (config.vocab_size, config.hidden_size, config.num_layers) == (152_064, 3584, 28)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.intermediate_size) == (28, 4, 128, 18_944)
    assert (config.family, config.declared_dtype, config.rms_norm_eps) == ("qwen2", "bf16", 1e-6)
    assert (config.qkv_bias, config.output_bias, config.qk_norm, config.tied_embeddings) == (True, False, False, False)
    position = config.position
    assert (position.rope_theta, position.rotary_dim, position.max_length) == (1e6, 128, 32_768)
    assert not position.use_dynamic_ntk and not position.use_logn_attn
    assert position.yarn is None and position.num_alphas == 1


def test_qwen3_has_norms_of_heads_and_its_own_head_dim() -> None:
    config = parsed(QWEN3 | {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8})
    assert (config.head_dim, config.qk_norm, config.qkv_bias, config.output_bias) == (128, True, False, False)
    without = {key: value for key, value in QWEN3.items() if key != "head_dim"}
    assert parsed(without | {"hidden_size": 1024}).head_dim == 128
    with_bias = parsed(QWEN3 | {"attention_bias": True})
    assert with_bias.qkv_bias and with_bias.output_bias


def test_the_keys_of_transformers_5_mean_those_of_4() -> None:
    moved = {key: value for key, value in BASE.items() if key not in ("rope_theta", "torch_dtype")}
    newer = moved | {"dtype": "bfloat16", "layer_types": ["full_attention"] * 28}
    newer |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "head_dim": None}
    assert parsed(newer) == parsed(BASE)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1000000.0}
    assert parsed(newer | {"rope_parameters": yarn}) == parsed(BASE | {"rope_scaling": YARN})
    assert parsed(newer | {"rope_scaling": yarn, "rope_parameters": yarn}) == parsed(BASE | {"rope_scaling": YARN})


def test_yarn_extends_the_context_and_the_defaults_are_those_of_the_paper() -> None:
    position = parsed(BASE | {"rope_scaling": YARN}).position
    assert (position.train_length, position.max_length) == (32_768, 131_072)
    assert position.yarn == YarnConfig(4.0, pytest.approx(1.1386294361))
    both = YARN | {"beta_fast": None, "attention_factor": None, "mscale": None}
    assert parsed(BASE | {"rope_scaling": both}).position == position
    longer = parsed(BASE | {"rope_scaling": YARN, "max_position_embeddings": 200_000}).position
    assert (longer.train_length, longer.max_length) == (32_768, 200_000)
    implied = {key: value for key, value in YARN.items() if key != "original_max_position_embeddings"}
    assert parsed(BASE | {"rope_scaling": implied}).position == position
    outside = BASE | {"rope_scaling": implied, "original_max_position_embeddings": 16_384}
    assert parsed(outside).position.train_length == 16_384
    chosen = parsed(BASE | {"rope_scaling": YARN | {"mscale": 2.0, "mscale_all_dim": 1.0, "truncate": False}}).position
    assert chosen.yarn is not None and not chosen.yarn.truncate
    assert chosen.yarn.attention_factor == pytest.approx(1.2772588722 / 1.1386294361)


def test_without_yarn_the_table_is_that_of_the_first_generation() -> None:
    config = parsed(BASE | {"max_position_embeddings": 64}).position
    yarn_of_one = parsed(BASE | {"max_position_embeddings": 64, "rope_scaling": YARN | {"factor": 1.0}}).position
    assert yarn_of_one.max_length == 32_768
    torch.testing.assert_close(RotaryTable(config).cos, RotaryTable(yarn_of_one).cos[:64])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen2_moe"}, "a mixture of experts; Qwartet runs dense Qwen text models"),
        ({"model_type": "qwen2_5_vl"}, "which takes images or audio"),
        ({"model_type": "llama"}, "model_type is 'llama'; Qwartet runs dense Qwen text models"),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": ["qwen2"]}, "model_type is ['qwen2']"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "only Qwen2ForCausalLM is supported"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "only Qwen2ForCausalLM is supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window is true; sliding windows are not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types names layers without full attention"),
        ({"layer_types": "sliding_attention"}, "layer_types is 'sliding_attention'; it must be a list"),
        ({"layer_types": {"0": "sliding_attention"}}, "with a name for each of the 28 layers"),
        ({"layer_types": ["full_attention"] * 27}, "with a name for each of the 28 layers"),
        ({"layer_types": [["full_attention"]] * 28}, "layer_types names layers without full attention"),
        ({"layer_types": False}, "layer_types is False"),
        ({"model_type": "qwen3_5_moe_text"}, "a mixture of experts"),
        ({"model_type": "qwen3_next"}, "a mixture of experts"),
        ({"model_type": "qwen3_omni_moe_thinker"}, "which takes images or audio"),
        ({"model_type": "qwen3_vl_text"}, "which takes images or audio"),
        ({"use_sliding_window": "no"}, "use_sliding_window is 'no'; it must be true or false"),
        ({"visual": {}}, "takes images"),
        ({"vision_config": {}}, "takes images"),
        ({"num_key_value_heads": 5}, "28 heads cannot share 5 key/value heads evenly"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"hidden_size": 3585}, "hidden_size 3585 is not a multiple of the 28 heads"),
        ({"head_dim": 65}, "head_dim is 65; it must be even"),
        ({"head_dim": 2}, "head_dim is 2"),
        ({"vocab_size": None}, "key 'vocab_size' is missing; is this a Qwen2ForCausalLM?"),
        ({"intermediate_size": 1.5}, "intermediate_size is 1.5; it must be an integer"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rope_theta": 1.0}, "rope_theta is 1; it must be above 1"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.rope_type is 'linear'; only"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type is 'dynamic'; only"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type is 'longrope'; only"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16]}}, "rope_scaling.rope_type is 'mrope'; only"),
        ({"rope_scaling": {"type": ["yarn"]}}, "rope_scaling.rope_type is ['yarn']; only"),
        ({"rope_scaling": {"type": "yarn", "rope_type": "default"}}, "remove the wrong one"),
        ({"rope_scaling": YARN, "rope_parameters": {"rope_theta": 1e6}}, "rope_scaling and rope_parameters differ"),
        ({"rope_scaling": False}, "rope_scaling is False; it must be an object"),
        ({"rope_parameters": []}, "rope_parameters is []; it must be an object"),
        ({"rope_scaling": YARN | {"mscale": ""}}, "rope_scaling.mscale is ''; it must be a positive number"),
        ({"rope_scaling": YARN | {"mscale_all_dim": -1}}, "rope_scaling.mscale_all_dim is -1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; it must be an object of plain values"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "it must be an object of plain values"),
        ({"rope_scaling": {"type": "yarn"}}, "key 'rope_scaling.factor' is missing"),
        ({"rope_scaling": YARN | {"factor": 0.5}}, "YaRN's factor is 0.5"),
        ({"rope_scaling": YARN | {"factor": "4"}}, "rope_scaling.factor is '4'; it must be a positive number"),
        ({"rope_scaling": YARN | {"beta_fast": 1, "beta_slow": 2}}, "beta_fast 1 and beta_slow 2"),
        ({"rope_scaling": YARN | {"truncate": 1}}, "rope_scaling.truncate is 1; it must be true or false"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 0}}, "original_max_position_embeddings is 0"),
        ({"rope_scaling": YARN | {"factor": 1e6}}, "a context of 32768000000 tokens needs more than"),
        ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1"),
        ({"max_position_embeddings": 2**22}, "a context of 4194304 tokens needs more than"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_config(BASE | changes, PATH)
    assert words in str(caught.value) and str(caught.value).startswith("dir/config.json: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rope_scaling": YARN | {"rope_theta": 5e5}},
            "rope_scaling.rope_theta 500000 and rope_theta 1000000.0 differ",
        ),
        ({"dual_chunk_attention_config": {"chunk_size": 262144}}, "long prompts get worse answers than with it"),
        ({"rope_scaling": YARN | {"finetuned": True}}, "keys of rope_scaling ignored, as in transformers: finetuned"),
    ],
)
def test_what_is_odd_but_used_is_a_warning(changes: dict[str, Any], words: str) -> None:
    with pytest.warns(CheckpointWarning) as caught:
        parse_config(BASE | changes, PATH)
    assert words in str(caught[0].message)


def test_what_supports_the_first_generation_only_refuses_the_others_by_name() -> None:
    with pytest.raises(SettingError, match=r"fine-tuning supports first-generation .* model_type is 'qwen2'"):
        check_first_generation(parsed(BASE), Path("dir"), "fine-tuning")


def test_a_null_where_transformers_writes_one_is_no_value() -> None:
    nulls = dict.fromkeys(("rope_scaling", "rope_parameters", "layer_types", "sliding_window", "head_dim"))
    nulls |= dict.fromkeys(("partial_rotary_factor", "dual_chunk_attention_config", "original_max_position_embeddings"))
    assert parsed(BASE | {"rope_scaling": {}, "rope_parameters": {}}) == parsed(BASE)
    assert parsed(BASE | nulls) == parsed(BASE)
