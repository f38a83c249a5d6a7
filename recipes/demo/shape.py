"""The shape of the bundled model, as the config.json of a first-generation Qwen chat checkpoint."""

from __future__ import annotations

from typing import Any

CONTEXT_LENGTH = 2048  # tokens
HIDDEN_SIZE = 256
NUM_LAYERS = 4
HEAD_DIM = 128
MLP_WIDTH = 640
NUM_SPECIAL_TOKENS = 208


def padded_vocabulary(num_ranks: int) -> int:
    """Rows of the embedding: ranks and special tokens, rounded up to a multiple of 128 as published models do."""
    return -(-(num_ranks + NUM_SPECIAL_TOKENS) // 128) * 128


def config_json(num_ranks: int) -> dict[str, Any]:
    """config.json with the published keys."""
    return {
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": 2 * MLP_WIDTH,
        "kv_channels": HEAD_DIM,
        "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": CONTEXT_LENGTH,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": HIDDEN_SIZE // HEAD_DIM,
        "num_hidden_layers": NUM_LAYERS,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": CONTEXT_LENGTH,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "use_cache": True,
        "use_dynamic_ntk": False,
        "use_flash_attn": "auto",
        "use_logn_attn": False,
        "vocab_size": padded_vocabulary(num_ranks),
    }


def generation_config_json(num_ranks: int) -> dict[str, Any]:
    """generation_config.json: published keys; the toy is more reliable with a lower top_p than the published 0.8."""
    return {
        "chat_format": "chatml",
        "do_sample": True,
        "eos_token_id": num_ranks,
        "max_new_tokens": 256,
        "max_window_size": CONTEXT_LENGTH - 256,
        "pad_token_id": num_ranks,
        "repetition_penalty": 1.0,
        "top_k": 0,
        "top_p": 0.3,
    }
