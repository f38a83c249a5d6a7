"""Stock transformers as the oracle: tiny random Qwen2 and Qwen3 models with every option, saved as checkpoints.

Without transformers the modules that import this are skipped.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers", minversion="5.3", reason="transformers is not installed")
transformers.utils.logging.disable_progress_bar()

TOLERANCE = 2e-4  # fp32; logits reach 10
VOCAB_SIZE = 320
CONTEXT = 512
NUM_LAYERS = 3
SHAPE = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}

CASES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen2 of 7 heads to a group": {"num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 448},
    "qwen2 without groups, other head_dim": {"num_key_value_heads": 4, "head_dim": 64},
    "qwen2 tied": {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen2 yarn": {"rope_parameters": YARN},
    "qwen2 yarn, every setting": {
        "rope_parameters": YARN
        | {"attention_factor": 1.3, "beta_fast": 20.0, "beta_slow": 2.0, "truncate": False, "rope_theta": 5e3}
    },
    "qwen2 yarn, mscale": {"rope_parameters": YARN | {"mscale": 1.2, "mscale_all_dim": 0.7}},
    "qwen3": {"head_dim": 64},
    "qwen3 tied": {"head_dim": 32, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    "qwen3 biases": {"head_dim": 96, "attention_bias": True, "num_key_value_heads": 1},
    "qwen3 yarn": {"head_dim": 64, "rope_parameters": YARN},
}


def new_model(case: str, **changes: Any) -> Any:
    """A stock model in fp32 with random weights, norms and biases."""
    classes = {
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    config_class, model_class = classes[case.split()[0]]
    model = model_class(config_class(**(SHAPE | CASES[case] | changes))).eval()
    generator = torch.Generator().manual_seed(sum(case.encode()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            random = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * random if "norm" in name else random * (0.3 if "embed" in name else 0.12))
    return model


def save(model: Any, directory: Path) -> Path:
    """The model's checkpoint, as transformers writes it."""
    model.save_pretrained(directory)
    return directory


@cache
def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Random ids."""
    return tuple(torch.randint(VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


@torch.inference_mode()
def stock_logits(model: Any, ids: list[int] | tuple[int, ...]) -> Tensor:
    """[T, V]"""
    logits: Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits


@torch.inference_mode()
def stock_greedy(model: Any, ids: list[int] | tuple[int, ...], num_tokens: int) -> list[int]:
    """What transformers' own generate continues with."""
    given = torch.tensor([list(ids)])
    found = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=num_tokens, pad_token_id=0
    )
    new: list[int] = found[0, len(ids) :].tolist()
    assert len(new) == num_tokens, "nothing ends a completion"
    return new


def edit_config(directory: Path, *, remove: tuple[str, ...] = (), **changes: Any) -> Path:
    """Changes keys of config.json."""
    path = directory / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in remove}), encoding="utf-8")
    return directory
