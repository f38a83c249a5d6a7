"""Writes a complete tiny Qwen-1 checkpoint with random weights: every file, key and tensor name as published.

Two layers of hidden size 128 (one head), an MLP of 128, 304 ranks and 208 special tokens: 512 rows. The rows of the
output layer that belong to special tokens are zero while one of the others is always positive, so a greedy answer
never ends before max_tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.quantizer import fit_group, quantize
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

Copy = Callable[..., Path]
"""Makes a copy of a valid checkpoint: the fixture `checkpoint`."""

HIDDEN_SIZE = 128
NUM_LAYERS = 2
MLP_WIDTH = 128
CONTEXT_LENGTH = 2048
NUM_RANKS = 304
VOCAB_SIZE = NUM_RANKS + len(SPECIAL_TOKENS)
WEIGHT_STD = 0.08

_WORDS = "the and you hello weather question answer system user assistant model 你好 世界 天气"


def write_tiny_checkpoint(
    directory: Path,
    *,
    seed: int = 0,
    bits: Literal[4, 8] | None = None,
    sharded: bool = False,
    chat_format: Literal["chatml", "raw"] = "chatml",
) -> Path:
    """Writes a checkpoint into `directory`, which is created, and returns it.

    `bits` makes it a GPTQ checkpoint, rounded to nearest, in fp16; without it the weights are bf16. `sharded` splits
    the tensors into two files with an index.
    """
    directory.mkdir(parents=True, exist_ok=True)
    gptq = None if bits is None else GptqConfig(bits=bits, group_size=128, desc_act=False, sym=True)
    vocabulary = tiny_vocabulary()
    vocabulary.save(directory / "qwen.tiktoken")
    _write_json(directory / "config.json", _config(gptq))
    _write_json(directory / "generation_config.json", _generation_config(vocabulary, chat_format))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config())
    if gptq is not None:
        _write_json(directory / "quantize_config.json", gptq.to_dict())
    _write_weights(directory, _random_tensors(seed, gptq), sharded)
    return directory


def tiny_vocabulary() -> Vocabulary:
    """The 256 bytes, then the beginnings of a few words: 304 ranks."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in _WORDS.split():
        raw = word.encode()
        tokens += [raw[:end] for end in range(2, len(raw) + 1) if raw[:end] not in tokens]
    assert len(tokens) >= NUM_RANKS, len(tokens)
    return Vocabulary.from_ranks({token: rank for rank, token in enumerate(tokens[:NUM_RANKS])})


def _random_tensors(seed: int, gptq: GptqConfig | None) -> dict[str, Tensor]:
    """All tensors by their names on disk."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if gptq is None else torch.float16

    def normal(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * WEIGHT_STD).to(dtype)

    tensors = {"transformer.wte.weight": normal(VOCAB_SIZE, HIDDEN_SIZE)}
    for layer in range(NUM_LAYERS):
        prefix = f"transformer.h.{layer}"
        linears = {
            "attn.c_attn": (normal(3 * HIDDEN_SIZE, HIDDEN_SIZE), normal(3 * HIDDEN_SIZE)),
            "attn.c_proj": (normal(HIDDEN_SIZE, HIDDEN_SIZE), None),
            "mlp.w1": (normal(MLP_WIDTH, HIDDEN_SIZE), None),
            "mlp.w2": (normal(MLP_WIDTH, HIDDEN_SIZE), None),
            "mlp.c_proj": (normal(HIDDEN_SIZE, MLP_WIDTH), None),
        }
        for norm in ("ln_1", "ln_2"):
            tensors[f"{prefix}.{norm}.weight"] = torch.ones(HIDDEN_SIZE, dtype=dtype)
        for name, (weight, bias) in linears.items():
            for leaf, tensor in _linear_tensors(weight, bias, gptq).items():
                tensors[f"{prefix}.{name}.{leaf}"] = tensor
    tensors["transformer.ln_f.weight"] = torch.ones(HIDDEN_SIZE, dtype=dtype)
    tensors["lm_head.weight"] = normal(VOCAB_SIZE, HIDDEN_SIZE)
    tensors["lm_head.weight"][NUM_RANKS:] = 0
    return tensors


def _linear_tensors(weight: Tensor, bias: Tensor | None, gptq: GptqConfig | None) -> dict[str, Tensor]:
    """What a checkpoint stores for one linear; GPTQ linears always have a bias."""
    if gptq is None:
        return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    columns = weight.t().float()  # [K, N]; K is 128, one group
    scale, zero = fit_group(columns, bits=gptq.bits, sym=gptq.sym)
    codes = quantize(columns, scale, zero, bits=gptq.bits).to(torch.uint8)
    quantized = QuantizedWeight.from_codes(
        codes, scale[None], zero[None].to(torch.uint8), bits=gptq.bits, group_size=gptq.group_size, sym=gptq.sym
    )
    return quantized.to_tensors() if bias is None else {**quantized.to_tensors(), "bias": bias}


def _write_weights(directory: Path, tensors: dict[str, Tensor], sharded: bool) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if not sharded:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, directory / file, metadata={"format": "pt"})
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    weight_map = {name: file for file, members in shards.items() for name in members}
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    _write_json(directory / "model.safetensors.index.json", index)


def _config(gptq: GptqConfig | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": gptq is not None,
        "fp32": False,
        "hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": 2 * MLP_WIDTH,
        "kv_channels": 128,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": CONTEXT_LENGTH,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": HIDDEN_SIZE // 128,
        "num_hidden_layers": NUM_LAYERS,
        "onnx_safe": None,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": CONTEXT_LENGTH,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "transformers_version": "4.32.0",
        "use_cache": True,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": VOCAB_SIZE,
    }
    return config if gptq is None else {**config, "quantization_config": gptq.to_quantization_config()}


def _generation_config(vocabulary: Vocabulary, chat_format: str) -> dict[str, Any]:
    endoftext = vocabulary.num_ranks
    config: dict[str, Any] = {
        "chat_format": chat_format,
        "eos_token_id": endoftext,
        "pad_token_id": endoftext,
        "max_new_tokens": 512,
        "do_sample": True,
        "top_k": 0,
        "top_p": 0.8,
        "transformers_version": "4.31.0",
    }
    if chat_format == "raw":
        return {**config, "stop_words_ids": [[endoftext]]}
    return {**config, "max_window_size": 6144, "repetition_penalty": 1.1}


def _tokenizer_config() -> dict[str, Any]:
    auto_map = {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}
    return {"model_max_length": CONTEXT_LENGTH, "tokenizer_class": "QWenTokenizer", "auto_map": auto_map}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
