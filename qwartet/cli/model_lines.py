"""Sentences about a model, shared by `qwartet inspect` and `qwartet show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwartet.cli.language.catalogue import label, listed, translate
from qwartet.cli.units import format_bytes, format_count


def model_line(model: dict[str, Any]) -> str:
    """Size and shape of a network."""
    shape = (
        "{num_layers} layers of {hidden_size}, {num_heads} heads of {head_dim}, MLP of {intermediate_size}, "
        "vocabulary of {vocab_size} rows"
    )
    if model["num_kv_heads"] != model["num_heads"]:
        shape = (
            "{num_layers} layers of {hidden_size}, {num_heads} heads of {head_dim} sharing {num_kv_heads} key/value "
            "heads, MLP of {intermediate_size}, vocabulary of {vocab_size} rows"
        )
    return f"{format_count(model['num_parameters'])} parameters: {shape.format_map(model)}"


def positions_line(model: dict[str, Any]) -> str:
    """How positions are encoded, and the context length."""
    extensions = [name for name, key in (("NTK", "use_dynamic_ntk"), ("LogN", "use_logn_attn")) if model[key]]
    beyond = f"{' and '.join(extensions)} beyond {model['train_length']}" if extensions else "no NTK, no LogN"
    if model["yarn_factor"] is not None:
        beyond = f"YaRN, {model['yarn_factor']:g} times {model['train_length']}"
    elif model["family"] != "qwen":
        return f"rotary, base {model['rope_theta']:.0f}, context of {model['max_length']} tokens"
    return f"rotary, base {model['rope_theta']:.0f}, context of {model['max_length']} tokens; {beyond}"


def kind_line(sampling: dict[str, Any]) -> str:
    """Whether it is a chat model, and its sampling defaults."""
    kinds = {"chatml": "chat (ChatML)", "raw": "base (completes text)"}
    kind = kinds.get(sampling["chat_format"], "chat or base unknown (chat_format is not set)")
    settings = "temperature {temperature:g}, top_k {top_k}, top_p {top_p:g}" if sampling["do_sample"] else "greedy"
    settings += ", repetition_penalty {repetition_penalty:g}, up to {max_new_tokens} tokens"
    return f"{kind}; sampling defaults: {settings.format_map(sampling)}"


def kernels_text(names: Mapping[str, str], sign: str = ", ") -> str:
    """Which kernel computes which operation, in the language in use."""
    return label(sign).join(f"{label(what)}{label(': ')}{translate(name)}" for what, name in names.items())


def files_line(files: list[dict[str, Any]], most: int = 8) -> str:
    """The first files of a list, with their sizes."""
    first = listed(f"{file['name']} ({format_bytes(file['bytes'])})" for file in files[:most])
    return f"{first} and {len(files) - most} more" if len(files) > most else first


def gptq_line(quantization: dict[str, Any]) -> str:
    """The settings of GPTQ."""
    symmetry = "symmetric" if quantization["sym"] else "asymmetric"
    return (
        f"GPTQ, {quantization['bits']} bits, groups of {quantization['group_size']}, {symmetry}, "
        f"desc_act {str(quantization['desc_act']).lower()}"
    )
