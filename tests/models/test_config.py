"""config.json -> ModelConfig: the published shapes, older keys, and every value that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.config import ModelConfig
from qwartet.models.families import load_config, parse_config

PATH = Path("dir/config.json")
COMMON = {
    "model_type": "qwen",
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-6,
    "no_bias": True,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "use_flash_attn": "auto",
}


def published(hidden: int, layers: int, heads: int, mlp: int, vocab: int, trained: int, longest: int) -> dict[str, Any]:
    is_72b = layers == 80
    return {
        **COMMON,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "vocab_size": vocab,
        "seq_length": trained,
        "max_position_embeddings": longest,
        "rotary_emb_base": 1_000_000 if is_72b else 10_000,
        "use_dynamic_ntk": not is_72b,
        "use_logn_attn": not is_72b,
    }


CONFIGS = {
    "1.8B": published(2048, 24, 16, 11008, 151936, 8192, 8192),
    "7B": published(4096, 32, 32, 22016, 151936, 8192, 32768),
    "14B": published(5120, 40, 40, 27392, 152064, 2048, 8192),
    "72B": published(8192, 80, 64, 49152, 152064, 32768, 32768),
}
BASE = CONFIGS["7B"]


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    # 72B: the size of the published bf16 weights / 2; the others by adding up the tensors of their shapes.
    [("1.8B", 1_836_828_672), ("7B", 7_721_324_544), ("14B", 14_167_290_880), ("72B", 72_287_920_128)],
)
def test_the_published_shapes_have_the_published_number_of_parameters(name: str, num_parameters: int) -> None:
    assert parse_config(CONFIGS[name], PATH).num_parameters == num_parameters


def test_the_72b_int4_files_size_follows_from_the_number_of_linear_parameters() -> None:
    config = parse_config(CONFIGS["72B"], PATH)
    assert config.num_linear_parameters == 69_793_218_560
    assert config.num_linear_parameters // 2 == 34_896_609_280  # bytes of all qweights


def test_every_field_comes_from_its_key() -> None:
    config = parse_config(CONFIGS["72B"] | {"fp16": True, "bf16": False}, PATH)
    assert (config.vocab_size, config.hidden_size, config.num_layers) == (152064, 8192, 80)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (64, 64, 128)
    assert config.intermediate_size == 24576, "half of the value in the file"
    assert config.rms_norm_eps == 1e-6
    assert config.declared_dtype == "fp16"
    position = config.position
    assert (position.rope_theta, position.rotary_dim) == (1e6, 128)
    assert (position.train_length, position.max_length) == (32768, 32768)
    assert not position.use_dynamic_ntk and not position.use_logn_attn


OLD_KEYS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "n_positions",
    "vocab_size": "padded_vocab_size",
}


@pytest.mark.parametrize(("new", "old"), OLD_KEYS.items())
def test_each_older_key_is_read_where_the_newer_one_is_absent_or_null(new: str, old: str) -> None:
    expected = parse_config(BASE, PATH)
    renamed = {old if key == new else key: value for key, value in BASE.items()}
    assert parse_config(renamed, PATH) == expected
    assert parse_config(renamed | {new: None}, PATH) == expected
    assert parse_config(BASE | {old: BASE[new]}, PATH) == expected


def test_a_config_with_only_older_keys_is_read() -> None:
    assert parse_config({OLD_KEYS.get(key, key): value for key, value in BASE.items()}, PATH) == parse_config(
        BASE, PATH
    )


def test_absent_keys_take_the_defaults_of_the_original_constructor() -> None:
    optional = [
        "kv_channels",
        "rotary_emb_base",
        "use_dynamic_ntk",
        "use_logn_attn",
        "layer_norm_epsilon",
        "rotary_pct",
    ]
    assert parse_config({k: v for k, v in BASE.items() if k not in optional}, PATH) == parse_config(BASE, PATH)
    short = {key: value for key, value in CONFIGS["1.8B"].items() if key != "max_position_embeddings"}
    assert parse_config(short, PATH).position.max_length == 8192


def test_seq_length_has_no_default_where_it_matters() -> None:
    for config, words in ((CONFIGS["7B"], "key 'seq_length' is missing"), (CONFIGS["72B"], None)):
        without = {key: value for key, value in config.items() if key != "seq_length"}
        if words is None:
            assert parse_config(without, PATH) == parse_config(config, PATH)
        else:
            with pytest.raises(CheckpointError, match=words):
                parse_config(without, PATH)


def test_two_different_rope_bases_are_told_and_the_originals_is_taken() -> None:
    with pytest.warns(CheckpointWarning, match="rotary_emb_base 10000 and rope_theta 1000000 differ"):
        assert parse_config(BASE | {"rope_theta": 1_000_000}, PATH).position.rope_theta == 10000
    assert parse_config(CONFIGS["72B"] | {"rope_theta": 1_000_000}, PATH).position.rope_theta == 1e6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen2_moe"}, "model_type is 'qwen2_moe', a mixture of experts"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
        ({"hidden_size": 4100}, "32 heads of 128"),
        ({"hidden_size": "4096"}, "hidden_size is '4096'; it must be an integer"),
        ({"hidden_size": 4096.0}, "hidden_size is 4096.0; it must be an integer"),
        ({"hidden_size": True}, "hidden_size is True; it must be an integer"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be between 1 and 1024"),
        ({"num_attention_heads": 31}, "31 heads of 128"),
        ({"kv_channels": 64}, "32 heads of 64"),
        ({"kv_channels": -128}, "kv_channels is -128"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be between 1 and 1024"),
        ({"intermediate_size": 22017}, "intermediate_size is 22017; it must be even"),
        ({"vocab_size": 2**40}, "vocab_size is"),
        ({"seq_length": 0}, "seq_length is 0"),
        ({"max_position_embeddings": 2**40}, "max_position_embeddings is"),
        ({"seq_length": 2, "max_position_embeddings": 2**20}, "one of the two is wrong"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0; it must be a positive number"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon is '1e-6'"),
        ({"rotary_emb_base": -1}, "rotary_emb_base is -1"),
        ({"rotary_emb_base": float("inf")}, "rotary_emb_base is inf"),
        ({"rotary_pct": 0.01}, "rotary_pct 0.01 rotates 1 of 128"),
        ({"rotary_pct": 1.5}, "rotary_pct 1.5 rotates 192 of 128"),
        ({"use_dynamic_ntk": "auto"}, "use_dynamic_ntk is 'auto'; it must be true or false"),
        ({"use_logn_attn": 1}, "use_logn_attn is 1; it must be true or false"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True; every published model has False"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False; every published model has True"),
        ({"bf16": True, "fp16": True}, "bf16 and fp16 are both true"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_config(BASE | changes, PATH)
    assert caught.value.path == str(PATH)
    assert words in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=3), children, max_size=2),
    max_leaves=4,
)


@pytest.mark.filterwarnings("ignore::qwartet.errors.CheckpointWarning")
@given(st.sampled_from(sorted(BASE | {"rope_theta": 0, "n_embd": 0, "fp32": 0})), json_values)
def test_any_value_under_any_key_gives_a_config_or_a_checkpoint_error(key: str, value: Any) -> None:
    try:
        config = parse_config(BASE | {key: value}, PATH)
    except CheckpointError as error:
        assert str(PATH) in str(error)
    else:
        assert isinstance(config, ModelConfig)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b'{"a": 1}}', "is not valid JSON"),
        (b"[1]", "does not hold a JSON object"),
        (b'"text"', "does not hold a JSON object"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not valid JSON"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "is nested more than 32 deep"),
        (b'{"a": ' * 40 + b"1" + b"}" * 40, "is nested more than 32 deep"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_json(path)
    assert caught.value.path == str(path) and len(str(caught.value)) < 500


def test_an_absent_file_a_directory_and_a_huge_file_are_refused_without_reading(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="file is missing; is this a checkpoint directory"):
        load_config(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="is a directory, not a file"):
        load_config(tmp_path)
    sparse = tmp_path / "huge.json"
    with sparse.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(CheckpointError, match="is 1073741824 bytes; a JSON file of a checkpoint has less"):
        read_json(sparse)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": 1, "b": {"c": true, "c": 1}}', '{"a": [{"b": null, "b": 0}]}', '{"a": NaN, "a": 0}'],
)
def test_a_key_with_two_values_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"key '[abc]' appears twice, with .* and .*; remove the wrong one"):
        read_json(path)


def test_a_key_that_stands_twice_with_one_value_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": [1], "a": [1]}')
    assert read_json(tmp_path / "config.json") == {"a": [1]}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "config.json").write_text('{"你": "好"}', encoding=encoding)
    assert read_json(tmp_path / "config.json") == {"你": "好"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"你": 1}'.encode("gbk"), r"byte 2 \(0xc4\) is not UTF-8 text; convert it: iconv"),
        ('{"a": 1}'.encode("utf-16-le"), "looks like UTF-16 without a byte order mark; convert it: iconv"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>", "looks like a web page"),
    ],
)
def test_what_stands_in_its_place_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"is not valid JSON.*{words}"):
        read_json(tmp_path / "config.json")


def test_a_config_is_read_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["14B"]), encoding="utf-8")
    assert load_config(tmp_path) == parse_config(CONFIGS["14B"], PATH)
