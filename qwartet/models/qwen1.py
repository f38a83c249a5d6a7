"""The family of the first-generation Qwen (model_type "qwen", QWenLMHeadModel).

disk                                  network
transformer.wte                       embedding
transformer.h.{i}.ln_1                layers.{i}.attention_norm
transformer.h.{i}.attn.c_attn         layers.{i}.attention.qkv
transformer.h.{i}.attn.c_proj         layers.{i}.attention.output
transformer.h.{i}.ln_2                layers.{i}.mlp_norm
transformer.h.{i}.mlp.w1 / w2         layers.{i}.mlp.up / gate
transformer.h.{i}.mlp.c_proj          layers.{i}.mlp.down
transformer.ln_f                      norm
lm_head                               lm_head
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import names_in
from qwartet.checkpoint.layout import Kind, Layout, ModuleSpec
from qwartet.checkpoint.other_kinds import check_senses
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.kernels.backend import Backend
from qwartet.layers.rotary import PositionConfig, RotaryTable
from qwartet.models.config import MAX_ROTARY_VALUES, ConfigReader, ModelConfig
from qwartet.models.family import Family
from qwartet.models.qwen import QwenModel
from qwartet.models.vocabulary_files import load_tokenizer
from qwartet.tokenizer.answer_form import AnswerForm
from qwartet.tokenizer.chatml import CHAT_TEMPLATE, build_prompt
from qwartet.tokenizer.tiktoken_tokenizer import VOCABULARY_FILE, TiktokenTokenizer

# The first published configs (August 2023) used the GPT-2 names; later ones the Hugging Face names.
_ALIASES = {
    "hidden_size": ("hidden_size", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "max_length": ("max_position_embeddings", "n_positions"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
}
_BOUNDS = {
    "hidden_size": (1, 2**17),
    "num_layers": (1, 1024),
    "num_heads": (1, 1024),
    "intermediate_size": (2, 2**20),
    "max_length": (1, 2**22),
    "vocab_size": (1, 2**22),
    "kv_channels": (2, 4096),
    "seq_length": (2, 2**22),
}
_LAYER = re.compile(r"transformer\.h\.(\d{1,9})\.", re.ASCII)
_HARMLESS_EXTRA = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.masked_bias|attn\.bias|attn\.logn_tensor)")


def _rope_theta(config: ConfigReader) -> float:
    raw, path = config.raw, config.path
    key = "rotary_emb_base" if "rotary_emb_base" in raw else "rope_theta"
    theta = config.number(key, 10000.0)
    if "rope_theta" in raw and config.number("rope_theta", theta) != theta:
        warnings.warn(
            f"{path}: rotary_emb_base {theta:g} and rope_theta {raw['rope_theta']} differ; the original code reads "
            "rotary_emb_base, and so does Qwartet",
            CheckpointWarning,
            stacklevel=2,
        )
    return theta


def _position_config(config: ConfigReader, head_dim: int) -> PositionConfig:
    raw, path = config.raw, config.path
    dynamic_ntk = config.flag("use_dynamic_ntk", True)
    logn = config.flag("use_logn_attn", True)
    max_length = config.integer("max_length", default=8192)
    needs_train_length = dynamic_ntk or logn
    train_length = config.integer("seq_length", default=None if needs_train_length else max_length)
    rotary_dim = int(head_dim * config.number("rotary_pct", 1.0))
    if not (2 < rotary_dim <= head_dim and rotary_dim % 2 == 0):
        raise CheckpointError(path, f"rotary_pct {raw.get('rotary_pct')} rotates {rotary_dim} of {head_dim} elements")
    position = PositionConfig(
        rope_theta=_rope_theta(config),
        rotary_dim=rotary_dim,
        train_length=train_length,
        max_length=max(max_length, train_length),
        use_dynamic_ntk=dynamic_ntk,
        use_logn_attn=logn,
    )
    if position.num_alphas * position.max_length * (rotary_dim // 2) > MAX_ROTARY_VALUES:
        reason = (
            f"seq_length {train_length} and max_position_embeddings {max_length} need {position.num_alphas} NTK tables"
        )
        raise CheckpointError(path, reason, hint="one of the two is wrong")
    return position


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig of a first-generation config.json; CheckpointError names the key that is missing or wrong."""
    check_senses(raw, path)
    config = ConfigReader(raw, path, _BOUNDS, _ALIASES, "is this a first-generation Qwen?")
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_heads")
    head_dim = config.integer("kv_channels", default=128)
    if num_heads * head_dim != hidden_size:
        raise CheckpointError(
            path, f"{num_heads} heads of {head_dim} (kv_channels) do not add up to hidden_size {hidden_size}"
        )
    mlp_value = config.integer("intermediate_size")
    if mlp_value % 2:
        raise CheckpointError(path, f"intermediate_size is {mlp_value}; it must be even (w1 and w2 take half each)")
    for key, required in (("tie_word_embeddings", False), ("scale_attn_weights", True)):
        if config.flag(key, required) is not required:
            raise CheckpointError(path, f"{key} is {raw[key]}; every published model has {required}")
    declared = [name for name in ("bf16", "fp16", "fp32") if raw.get(name) is True]
    if len(declared) > 1:
        raise CheckpointError(path, f"{' and '.join(declared)} are both true; at most one can be")
    return ModelConfig(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=config.integer("num_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        intermediate_size=mlp_value // 2,
        rms_norm_eps=config.number("layer_norm_epsilon", 1e-6),
        position=_position_config(config, head_dim),
        declared_dtype=declared[0] if declared else None,
    )


def layout(config: ModelConfig) -> Layout:
    """The modules in the order of the forward pass."""
    hidden, mlp, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    attention, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def module(name: str, disk: str, kind: Kind, shape: tuple[int, ...], fields: str) -> ModuleSpec:
        return ModuleSpec(name, kind, shape, ((disk, shape[0]),), fields, needs_bias=name.endswith("attention.qkv"))

    def block(index: int) -> list[ModuleSpec]:
        inner: list[tuple[str, str, Kind, tuple[int, ...], str]] = [
            ("attention_norm", "ln_1", "norm", (hidden,), "hidden_size"),
            ("attention.qkv", "attn.c_attn", "linear", (attention + 2 * kv, hidden), "3 * hidden_size, hidden_size"),
            ("attention.output", "attn.c_proj", "linear", (hidden, attention), "hidden_size, hidden_size"),
            ("mlp_norm", "ln_2", "norm", (hidden,), "hidden_size"),
            ("mlp.up", "mlp.w1", "linear", (mlp, hidden), "intermediate_size / 2, hidden_size"),
            ("mlp.gate", "mlp.w2", "linear", (mlp, hidden), "intermediate_size / 2, hidden_size"),
            ("mlp.down", "mlp.c_proj", "linear", (hidden, mlp), "hidden_size, intermediate_size / 2"),
        ]
        prefixes = f"layers.{index}.", f"transformer.h.{index}."
        return [
            module(prefixes[0] + name, prefixes[1] + disk, kind, shape, why) for name, disk, kind, shape, why in inner
        ]

    modules = [
        module("embedding", "transformer.wte", "embedding", (vocab, hidden), "vocab_size, hidden_size"),
        *(spec for index in range(config.num_layers) for spec in block(index)),
        module("norm", "transformer.ln_f", "norm", (hidden,), "hidden_size"),
        module("lm_head", "lm_head", "head", (vocab, hidden), "vocab_size, hidden_size"),
    ]
    return Layout(tuple(modules), config.num_layers, _LAYER, _HARMLESS_EXTRA)


def _build(config: ModelConfig, rotary: RotaryTable | None, backend: Backend) -> QwenModel:
    return QwenModel(config, rotary, backend)


def _has_tokenizer(directory: Path) -> bool:
    return any(name.endswith(".tiktoken") for name in names_in(directory))


def _load_tokenizer(directory: Path) -> TiktokenTokenizer | None:
    return load_tokenizer(directory) if _has_tokenizer(directory) else None


QWEN1 = Family(
    model_type="qwen",
    parse_config=parse_config,
    layout=layout,
    build=_build,
    has_tokenizer=_has_tokenizer,
    load_tokenizer=_load_tokenizer,
    chat_prompt=build_prompt,
    answer_form=lambda tokenizer: AnswerForm("react"),
    vocabulary_file=VOCABULARY_FILE,
    jinja_template=lambda tokenizer: CHAT_TEMPLATE,
)
