"""The settings of a run: names and defaults of the published scripts, which differ by method.

    full     finetune_ds.sh                learning rate 1e-5, batches of 1, 16 of them a step
    lora     finetune_lora_single_gpu.sh   3e-4, 2 and 8
    qlora    finetune_qlora_single_gpu.sh  3e-4, 2 and 8

Names are those of transformers' TrainingArguments where it has them. Preference optimisation, which the scripts do not
have, learns far slower: 1e-6 for full, else 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from qwartet.errors import SettingError
from qwartet.tokenizer.chatml import LossOn

Method = Literal["full", "lora", "qlora"]
ComputeDtype = Literal["auto", "bf16", "fp16", "fp32"]
Objective = Literal["sft", "dpo"]
Schedule = Literal["cosine", "linear", "constant"]
TARGETS = ("c_attn", "c_proj", "w1", "w2")

_OF_METHOD: Mapping[str, Mapping[str, Any]] = {
    "full": {"learning_rate": 1e-5, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
    "lora": {},
    "qlora": {},
}
_DPO_LEARNING_RATE = {"full": 1e-6, "lora": 1e-5, "qlora": 1e-5}
_AT_LEAST_ONE = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "lora_r", "save_steps", "save_total_limit",
    "logging_steps",
)  # fmt: skip
_NOT_NEGATIVE = ("weight_decay", "max_grad_norm", "seed")
_BELOW_ONE = ("adam_beta1", "adam_beta2", "warmup_ratio", "lora_dropout")
_CHOICES = {
    "method": get_args(Method), "objective": get_args(Objective), "dtype": get_args(ComputeDtype),
    "lr_scheduler_type": get_args(Schedule), "loss_on": get_args(LossOn),
}  # fmt: skip
WITHOUT_EFFECT_ON_WEIGHTS = ("save_steps", "save_total_limit", "logging_steps", "eval_steps", "tensorboard")
"""What a resumed run may change."""


@dataclass(frozen=True)
class Settings:
    """All settings; SettingError for a value out of bounds."""

    method: Method = "lora"
    objective: Objective = "sft"  # the answers of conversations, or preferences between answers
    dpo_beta: float = 0.1
    learning_rate: float = 3e-4
    num_train_epochs: float = 5.0
    max_steps: int = -1  # -1: as many as the epochs have
    per_device_train_batch_size: int = 2
    gradient_accumulation_steps: int = 8
    tokens_per_batch: int | None = None  # packing: instead of a number of conversations
    model_max_length: int = 512
    loss_on: LossOn = "published"
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_ratio: float = 0.01
    lr_scheduler_type: Schedule = "cosine"
    dtype: ComputeDtype = "auto"
    gradient_checkpointing: bool = True
    lora_r: int = 64
    lora_alpha: float = 16
    lora_dropout: float = 0.05
    lora_target_modules: tuple[str, ...] = TARGETS
    modules_to_save: tuple[str, ...] | None = None  # None: as published, wte and lm_head of a base model
    save_steps: int = 1000
    save_total_limit: int = 10
    logging_steps: int = 1
    eval_steps: int | None = None  # None: evaluated when a checkpoint is saved, and at the end
    seed: int = 42
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _error(name, getattr(self, name), f"one of {', '.join(choices)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise _error(field.name, value, "a finite number")
        _check_bounds(self)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def settings_for(method: Method, **given: Any) -> Settings:
    """Settings of a method; None, or a missing name, is its default. SettingError for a value out of bounds."""
    if method not in _OF_METHOD:
        raise _error("method", method, f"one of {', '.join(_OF_METHOD)}")
    known = {name: value for name, value in given.items() if value is not None}
    defaults = dict(_OF_METHOD[method])
    if known.get("objective") == "dpo":
        defaults["learning_rate"] = _DPO_LEARNING_RATE[method]
    return Settings(method=method, **{**defaults, **known})


def _check_bounds(settings: Settings) -> None:
    for name in _AT_LEAST_ONE:
        if getattr(settings, name) < 1:
            raise _error(name, getattr(settings, name), "at least 1")
    for name in ("tokens_per_batch", "eval_steps"):
        if (value := getattr(settings, name)) is not None and value < 1:
            raise _error(name, value, "at least 1")
    for name in _NOT_NEGATIVE:
        if getattr(settings, name) < 0:
            raise _error(name, getattr(settings, name), "0 or more")
    for name in _BELOW_ONE:
        if not 0 <= getattr(settings, name) < 1:
            raise _error(name, getattr(settings, name), "0 or more, and below 1")
    for name in ("learning_rate", "dpo_beta", "lora_alpha", "adam_epsilon", "num_train_epochs"):
        if getattr(settings, name) <= 0:
            raise _error(name, getattr(settings, name), "above 0")
    if settings.max_steps != -1 and settings.max_steps < 1:
        raise _error("max_steps", settings.max_steps, "at least 1, or -1 for as many as the epochs have")
    if settings.model_max_length < 2:
        raise _error("model_max_length", settings.model_max_length, "at least 2")
    if not settings.lora_target_modules or not all(settings.lora_target_modules):
        raise _error("lora_target_modules", ",".join(settings.lora_target_modules), f"some of {','.join(TARGETS)}")


def _error(name: str, value: Any, bounds: str) -> SettingError:
    return SettingError(f"{name} is {value!r:.80}; it must be {bounds}", param=name)
