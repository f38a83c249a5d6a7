"""Whatever stands in the files of a Qwen2 or Qwen3, reading them gives a model or an error that names the file."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwartet.errors import CheckpointError
from qwartet.models.families import FAMILIES, load_config
from qwartet.models.generation_config import load_generation_defaults
from qwartet.models.hf_vocabulary_files import load_hf_tokenizer
from qwartet.models.load import load_gptq_config
from qwartet.models.shapes import ALL_SHAPES, config_json, generation_config_json, gptq_config
from tests.tokenizer.hf_files import small_content, write_tokenizer

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 3, 2**31, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "4",
    "\ud800", "x" * 5000, "a\x1b[31m\nb", [], [1], ["x"], [[]], [None], [{}], {}, {"a": 1}, {"content": 7},
]  # fmt: skip
MORE = {
    "config.json": (
        *("head_dim", "rope_scaling", "rope_parameters", "layer_types", "dtype", "partial_rotary_factor"),
        *("compression_config", "dual_chunk_attention_config", "original_max_position_embeddings"),
    ),
    "generation_config.json": ("max_new_tokens", "stop_words_ids", "suppress_tokens", "stop_strings", "chat_format"),
    "tokenizer_config.json": (
        *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "bos_token", "unk_token"),
        "chat_template",
    ),
    "tokenizer.json": (),
}
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "mscale": 1.0, "truncate": True, "attention_factor": 1.0}


def contents(name: str) -> dict[str, dict[str, Any]]:
    """The JSON files of a checkpoint, by their names."""
    config = config_json(ALL_SHAPES[name], gptq_config("int4", method="awq"))
    return {
        "config.json": config | {"rope_scaling": YARN},
        "generation_config.json": generation_config_json(ALL_SHAPES[name], 267),
        "tokenizer_config.json": {
            "eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"},
            "chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}],
            "added_tokens_decoder": {"300": {"content": "<note>", "special": False}},
            "additional_special_tokens": ["<|im_end|>"],
        },
        "tokenizer.json": json.loads(small_content()),
    }  # fmt: skip


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something could be replaced: of long lists and objects, in their first two entries."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys if len(keys) < 20 else keys[:2]:
        yield (*here, key)
        yield from places(value[key], (*here, key))


def put(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def read_all(directory: Path) -> None:
    load_config(directory)
    load_gptq_config(directory)
    load_generation_defaults(directory)
    load_hf_tokenizer(directory)


@pytest.mark.parametrize("file", MORE)
@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen3-0.6b"])
def test_an_odd_value_anywhere_gives_a_model_or_an_error_of_one_short_line(
    tmp_path: Path, name: str, file: str
) -> None:
    files = contents(name)
    write_tokenizer(tmp_path, small_content())
    for other, content in files.items():
        (tmp_path / other).write_text(json.dumps(content), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_all(tmp_path)
    cases = [(place, odd) for place in [*places(files[file]), *((key,) for key in MORE[file])] for odd in ODD]
    num_refused = 0
    for place, odd in random.Random(0).sample(cases, min(len(cases), 1200)):
        (tmp_path / file).write_text(json.dumps(put(files[file], place, odd)), encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_all(tmp_path)
            except CheckpointError as error:
                num_refused += 1
                text = str(error)
                assert str(tmp_path) in text and text.isprintable() and len(text) < 1200, (place, odd, text)
            except Exception as error:
                raise AssertionError((place, odd)) from error
    assert num_refused > 100 and set(FAMILIES) >= {"qwen2", "qwen3"}
