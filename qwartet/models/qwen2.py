"""The family of Qwen1.5, Qwen2 and Qwen2.5 (model_type "qwen2", Qwen2ForCausalLM); qwen3.py shares its names on disk.

disk                                             network
model.embed_tokens                               embedding
model.layers.{i}.input_layernorm                 layers.{i}.attention_norm
model.layers.{i}.self_attn.q_proj, k_proj, v_proj  layers.{i}.attention.qkv: their rows one after another
model.layers.{i}.self_attn.q_norm, k_norm        layers.{i}.attention.q_norm, k_norm: Qwen3 only
model.layers.{i}.self_attn.o_proj                layers.{i}.attention.output
model.layers.{i}.post_attention_layernorm        layers.{i}.mlp_norm
model.layers.{i}.mlp.up_proj, gate_proj          layers.{i}.mlp.up, gate
model.layers.{i}.mlp.down_proj                   layers.{i}.mlp.down
model.norm                                       norm
lm_head                                          lm_head; with tied embeddings there is none

Sources: transformers' Qwen2ForCausalLM and Qwen3ForCausalLM, and the published config.json files.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from qwartet.checkpoint.layout import Kind, Layout, ModuleSpec
from qwartet.checkpoint.other_kinds import check_senses
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.kernels.backend import Backend
from qwartet.layers.rotary import RotaryTable
from qwartet.models.config import ConfigReader, ModelConfig
from qwartet.models.family import Family
from qwartet.models.hf_vocabulary_files import TOKENIZER_FILE, has_hf_tokenizer, load_hf_tokenizer
from qwartet.models.qwen import QwenModel
from qwartet.models.rope_parameters import read_positions
from qwartet.tokenizer.templates.answer_form import template_answer_form
from qwartet.tokenizer.templates.prompt import template_prompt

_ALIASES = {
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "max_length": ("max_position_embeddings",),
}
_BOUNDS = {
    "hidden_size": (1, 2**17),
    "num_layers": (1, 1024),
    "num_heads": (1, 1024),
    "num_kv_heads": (1, 1024),
    "head_dim": (4, 4096),
    "intermediate_size": (1, 2**20),
    "max_length": (1, 2**22),
    "vocab_size": (1, 2**22),
}
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.", re.ASCII)
_HARMLESS_EXTRA = re.compile(r"(.*\.)?rotary_emb\.inv_freq")
_HARMLESS_WHEN_TIED = re.compile(r"(.*\.)?rotary_emb\.inv_freq|lm_head\.weight")


def open_config(raw: Mapping[str, Any], path: Path, architecture: str) -> ConfigReader:
    """A reader of a config.json with the keys of transformers 4 or 5; CheckpointError for a model that does not run."""
    check_senses(raw, path)
    config = ConfigReader(raw, path, _BOUNDS, _ALIASES, f"is this a {architecture}?")
    _check_kind(config, architecture)
    return config


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig of a Qwen2's config.json; CheckpointError names the key that is missing or wrong."""
    return read_config(open_config(raw, path, "Qwen2ForCausalLM"))


def read_config(config: ConfigReader, head_dim: int | None = None) -> ModelConfig:
    """ModelConfig of a Qwen2; CheckpointError names the key that is missing or wrong.

    `head_dim` where the file has none: None for hidden_size / heads.
    """
    raw, path = config.raw, config.path
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_heads")
    num_kv_heads = config.integer("num_kv_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise CheckpointError(path, f"{num_heads} heads cannot share {num_kv_heads} key/value heads evenly")
    if head_dim is None and raw.get("head_dim") is None and hidden_size % num_heads:
        raise CheckpointError(path, f"hidden_size {hidden_size} is not a multiple of the {num_heads} heads")
    head_dim = config.integer("head_dim", default=head_dim or hidden_size // num_heads)
    if head_dim % 2 or head_dim < 4:
        raise CheckpointError(path, f"head_dim is {head_dim}; it must be even, and at least 4")
    return ModelConfig(
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=config.integer("num_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=config.integer("intermediate_size"),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        position=read_positions(config, head_dim),
        declared_dtype=_DTYPES.get(str(raw.get("dtype", raw.get("torch_dtype")))),
        family="qwen2",
        tied_embeddings=config.flag("tie_word_embeddings", False),
    )


def _check_kind(config: ConfigReader, architecture: str) -> None:
    """CheckpointError for another head, activation or attention than those of the published models."""
    raw, path = config.raw, config.path
    architectures = raw.get("architectures")
    if architectures and architectures != [architecture]:
        raise CheckpointError(path, f"architectures is {architectures!r:.80}; only {architecture} is supported")
    if (activation := raw.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(path, f"hidden_act is {activation!r:.40}; only 'silu' is supported")
    _check_attention(config)


def _check_attention(config: ConfigReader) -> None:
    """CheckpointError for layers that do not attend to the whole context."""
    raw, path = config.raw, config.path
    layer_types, num_layers = raw.get("layer_types"), config.integer("num_layers")
    slides = isinstance(layer_types, list) and any(kind != "full_attention" for kind in layer_types)
    if slides or config.flag("use_sliding_window", False):
        what = "layer_types names layers without full attention" if slides else "use_sliding_window is true"
        hint = "use a checkpoint with full attention, as all published ones have it"
        raise CheckpointError(path, f"{what}; sliding windows are not supported", hint=hint)
    if layer_types is not None and (not isinstance(layer_types, list) or len(layer_types) != num_layers):
        reason = (
            f"layer_types is {layer_types!r:.80}; it must be a list with a name for each of the {num_layers} layers"
        )
        raise CheckpointError(path, reason)
    if raw.get("dual_chunk_attention_config") is not None:
        message = (
            "dual_chunk_attention_config is ignored, as in transformers; long prompts get worse answers than with it"
        )
        warnings.warn(f"{path}: {message}", CheckpointWarning, stacklevel=2)


def layout(config: ModelConfig) -> Layout:
    """The modules in the order of the forward pass."""
    hidden, vocab = config.hidden_size, config.vocab_size
    embedding = ("model.embed_tokens", vocab)
    head = embedding if config.tied_embeddings else ("lm_head", vocab)
    rows = "vocab_size, hidden_size"
    modules = [
        ModuleSpec("embedding", "embedding", (vocab, hidden), (embedding,), rows),
        *(spec for index in range(config.num_layers) for spec in _block(config, index)),
        ModuleSpec("norm", "norm", (hidden,), (("model.norm", hidden),), "hidden_size"),
        ModuleSpec("lm_head", "head", (vocab, hidden), (head,), rows),
    ]
    harmless = _HARMLESS_WHEN_TIED if config.tied_embeddings else _HARMLESS_EXTRA
    spare_head = "lm_head" if config.tied_embeddings else None
    return Layout(tuple(modules), config.num_layers, _LAYER, harmless, spare_head, can_tie=True)


def _block(config: ModelConfig, index: int) -> list[ModuleSpec]:
    hidden, mlp = config.hidden_size, config.intermediate_size
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    ours, theirs = f"layers.{index}.", f"model.layers.{index}."

    def norm(name: str, disk: str, size: int, field: str) -> ModuleSpec:
        return ModuleSpec(ours + name, "norm", (size,), ((theirs + disk, size),), field)

    def linear(name: str, parts: Mapping[str, int], columns: int, fields: str, has_bias: bool = False) -> ModuleSpec:
        kind: Kind = "linear"
        shape, disk = (sum(parts.values()), columns), tuple((theirs + part, rows) for part, rows in parts.items())
        return ModuleSpec(ours + name, kind, shape, disk, fields, needs_bias=has_bias, allows_bias=has_bias)

    qkv = {"self_attn.q_proj": query, "self_attn.k_proj": kv, "self_attn.v_proj": kv}
    head_norms = ("q_norm", "k_norm") if config.qk_norm else ()
    heads = "heads * head_dim"
    return [
        norm("attention_norm", "input_layernorm", hidden, "hidden_size"),
        linear("attention.qkv", qkv, hidden, f"{heads}, hidden_size", config.qkv_bias),
        *(norm(f"attention.{one}", f"self_attn.{one}", config.head_dim, "head_dim") for one in head_norms),
        linear("attention.output", {"self_attn.o_proj": hidden}, query, f"hidden_size, {heads}", config.output_bias),
        norm("mlp_norm", "post_attention_layernorm", hidden, "hidden_size"),
        linear("mlp.up", {"mlp.up_proj": mlp}, hidden, "intermediate_size, hidden_size"),
        linear("mlp.gate", {"mlp.gate_proj": mlp}, hidden, "intermediate_size, hidden_size"),
        linear("mlp.down", {"mlp.down_proj": hidden}, mlp, "hidden_size, intermediate_size"),
    ]


def build(config: ModelConfig, rotary: RotaryTable | None, backend: Backend) -> QwenModel:
    """The network, with uninitialised parameters."""
    return QwenModel(config, rotary, backend)


QWEN2 = Family(
    model_type="qwen2",
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
