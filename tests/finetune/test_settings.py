"""Defaults of the published scripts by method, and values out of bounds."""

from __future__ import annotations

from typing import Any

import pytest

from qwartet.errors import SettingError
from qwartet.finetune.settings import settings_for


@pytest.mark.parametrize(("method", "rate", "batch", "accumulated"), [("full", 1e-5, 1, 16), ("lora", 3e-4, 2, 8)])
def test_the_defaults_are_those_of_the_published_scripts(
    method: Any, rate: float, batch: int, accumulated: int
) -> None:
    found = settings_for(method)
    assert (found.learning_rate, found.per_device_train_batch_size, found.gradient_accumulation_steps) == (
        rate, batch, accumulated,
    )  # fmt: skip
    assert (found.num_train_epochs, found.weight_decay, found.adam_beta2, found.warmup_ratio) == (5, 0.1, 0.95, 0.01)
    assert (found.lr_scheduler_type, found.model_max_length, found.gradient_checkpointing) == ("cosine", 512, True)
    assert (found.save_steps, found.save_total_limit, found.logging_steps) == (1000, 10, 1)
    assert (found.lora_r, found.lora_alpha, found.lora_dropout) == (64, 16, 0.05)
    assert found.lora_target_modules == ("c_attn", "c_proj", "w1", "w2")


def test_q_lora_has_the_defaults_of_lora_and_none_is_the_default() -> None:
    assert settings_for("qlora", learning_rate=None).learning_rate == settings_for("lora").learning_rate
    assert settings_for("full", learning_rate=1e-4).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0), ("learning_rate", float("nan")), ("num_train_epochs", -1), ("max_steps", 0),
        ("per_device_train_batch_size", 0), ("gradient_accumulation_steps", 0), ("model_max_length", 1),
        ("tokens_per_batch", 0), ("adam_beta2", 1), ("warmup_ratio", 1.5), ("lora_r", 0), ("lora_alpha", 0),
        ("lora_dropout", -0.1), ("lora_target_modules", ()), ("save_steps", 0), ("save_total_limit", 0),
        ("logging_steps", 0), ("eval_steps", 0), ("seed", -1), ("weight_decay", -1), ("max_grad_norm", -1),
        ("dtype", "int8"), ("lr_scheduler_type", "step"), ("loss_on", "user"),
    ],
)  # fmt: skip
def test_a_value_out_of_bounds_is_an_error_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{name} is .*; it must be"):
        settings_for("lora", **{name: value})


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(SettingError, match="method is 'sft'; it must be one of full, lora, qlora"):
        settings_for("sft")  # type: ignore[arg-type]
