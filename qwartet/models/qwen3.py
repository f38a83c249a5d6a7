"""The family of the dense Qwen3 (model_type "qwen3", Qwen3ForCausalLM).

It differs from qwen2.py in the norms of queries and keys, in a head_dim of its own, and in that biases are an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from qwartet.models.config import ModelConfig
from qwartet.models.family import Family
from qwartet.models.hf_vocabulary_files import TOKENIZER_FILE, has_hf_tokenizer, load_hf_tokenizer
from qwartet.models.qwen2 import build, layout, open_config, read_config
from qwartet.tokenizer.templates.answer_form import template_answer_form
from qwartet.tokenizer.templates.prompt import template_prompt

HEAD_DIM = 128  # of every published size


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig of a Qwen3's config.json; CheckpointError names the key that is missing or wrong."""
    config = open_config(raw, path, "Qwen3ForCausalLM")
    bias = config.flag("attention_bias", False)
    return replace(read_config(config, HEAD_DIM), family="qwen3", qkv_bias=bias, output_bias=bias, qk_norm=True)


QWEN3 = Family(
    model_type="qwen3",
    parse_config=parse_config,
    layout=layout,
    build=build,
    has_tokenizer=has_hf_tokenizer,
    load_tokenizer=load_hf_tokenizer,
    chat_prompt=template_prompt,
    answer_form=template_answer_form,
    vocabulary_file=TOKENIZER_FILE,
    jinja_template=attrgetter("jinja_template"),
    has_templates=True,
)
