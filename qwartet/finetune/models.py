"""The model of a run: which checkpoint suits a method, what it needs, and how it is loaded for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qwartet.checkpoint.layout import Layout
from qwartet.errors import OutOfMemoryError, SettingError
from qwartet.files import check_free_space
from qwartet.finetune.settings import Method, Settings
from qwartet.finetune.weights import AdapterFiles, FullModel, WeightFiles
from qwartet.kernels.device_memory import available_bytes
from qwartet.models.families import check_first_generation
from qwartet.models.generation_config import load_generation_defaults
from qwartet.models.load import OpenCheckpoint, open_checkpoint

WHOLE_MODULES = ("wte", "lm_head")
"""What LoRA on a base model trains besides, since the base has never seen the markers of a conversation."""

_FILE_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Plan:
    """A checked checkpoint and what will be trained of it."""

    directory: Path
    opened: OpenCheckpoint
    settings: Settings
    whole_modules: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype  # of the computation

    @property
    def num_trained(self) -> int:
        """Parameters that are trained."""
        layout, rank = self.opened.layout, self.settings.lora_r
        if self.settings.method == "full":
            return num_parameters(layout)
        whole = sum(math.prod(spec.shape) for spec in layout if spec.disk_name.endswith(self.whole_modules or ("\0",)))
        adapted = [spec for spec in layout if _is_target(spec.disk_name, self.settings.lora_target_modules)]
        return whole + sum(rank * sum(spec.shape) for spec in adapted)


def plan(directory: Path, settings: Settings, device: torch.device) -> Plan:
    """Opens a checkpoint for a method; SettingError where they do not suit each other."""
    opened = open_checkpoint(directory)
    check_first_generation(opened.config, directory, "fine-tuning")
    _check_method(directory, settings.method, opened.gptq is not None)
    longest = opened.config.position.max_length
    if settings.model_max_length > longest:
        raise SettingError(
            f"model_max_length is {settings.model_max_length}, but the model's context is {longest}; lower it"
        )
    if settings.method == "full":
        return Plan(directory, opened, settings, (), device, compute_dtype(settings, device))
    _check_targets(opened.layout, settings.lora_target_modules)
    whole = settings.modules_to_save
    if whole is None:
        whole = () if opened.gptq is not None or load_generation_defaults(directory).is_chat else WHOLE_MODULES
    if unknown := [name for name in whole if name not in WHOLE_MODULES]:
        raise SettingError(f"modules_to_save names {unknown[0]!r:.60}; it may name {' and '.join(WHOLE_MODULES)}")
    return Plan(directory, opened, settings, tuple(whole), device, compute_dtype(settings, device))


def compute_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    """The dtype of matrix products; "auto" is bf16 where the device has it, else fp16 on a GPU and fp32 on a CPU.

    For quantised weights it is bf16 on every CPU, since the native kernels compute in that.
    """
    if settings.dtype != "auto":
        return _DTYPES[settings.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    has_bf16 = settings.method == "qlora" or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return torch.bfloat16 if has_bf16 else torch.float32


def num_parameters(layout: Layout) -> int:
    """Parameters of a float model."""
    return sum(math.prod(spec.shape) + (spec.shape[0] if spec.needs_bias else 0) for spec in layout)


def check_room(found: Plan, output: Path, *, num_steps: int, is_sharded: bool) -> None:
    """SettingError or OutOfMemoryError when the disk or the memory cannot hold the run; activations are not counted."""
    trained, everything = found.num_trained, num_parameters(found.opened.layout)
    settings = found.settings
    # A new checkpoint is written before the oldest is removed, and the last step has one too.
    kept = min(settings.save_total_limit + 1, num_steps // settings.save_steps + 1)
    # fp32 weights and two moments each, and the result
    hint = "free some space, lower --save-total-limit, or choose another disk"
    check_free_space(output, trained * (12 * kept + 4), hint)
    frozen = 0 if settings.method == "full" else found.opened.checkpoint.nbytes
    needed = trained * 16 + frozen  # weights, gradients and two moments
    free = available_bytes(found.device)
    if needed > free and not is_sharded:
        ways = {
            "full": "use --method lora, or qlora on an Int4 checkpoint",
            "lora": "use --method qlora on an Int4 checkpoint, or a smaller model",
            "qlora": "use a smaller model",
        }
        raise OutOfMemoryError(
            f"{found.directory}: {settings.method} training of {everything / 1e9:.1f} billion parameters needs "
            f"{needed / 1e9:.1f} GB and activations, and {free / 1e9:.1f} GB are free; {ways[settings.method]}, or "
            "shard it over several GPUs (docs/finetune.md)"
        )


def load(found: Plan, name: str) -> tuple[Any, WeightFiles]:
    """The model in training form, and how its trained parameters are stored; `name` goes into an adapter's config."""
    from qwartet.hf import QWenLMHeadModel

    settings = found.settings
    dtype = torch.float32 if settings.method == "full" else found.dtype
    model = QWenLMHeadModel.from_pretrained(str(found.directory), dtype=dtype)
    if settings.method == "full":
        info = found.opened.checkpoint.info(found.opened.layout.parameter_name("embedding.weight"))
        _own_fp32(model.parameters())
        return model, FullModel(found.directory, _FILE_DTYPES[info.dtype])
    from peft import LoraConfig, get_peft_model

    model.name_or_path = model.config.name_or_path = name
    config = LoraConfig(
        r=settings.lora_r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout, bias="none",
        target_modules=list(settings.lora_target_modules), task_type="CAUSAL_LM",
        modules_to_save=list(found.whole_modules) or None,
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    _own_fp32([parameter for parameter in adapted.parameters() if parameter.requires_grad])
    return adapted, AdapterFiles(adapted.peft_config["default"])


def _own_fp32(parameters: Any) -> None:
    """Trained parameters are fp32, and in memory of their own rather than mapped from a file."""
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.float32, copy=True)


def _check_method(directory: Path, method: Method, is_quantised: bool) -> None:
    if is_quantised and method == "full":
        raise SettingError(
            f"{directory} is quantised, and full training needs a float checkpoint; use --method qlora, or the float "
            "model"
        )
    if is_quantised and method == "lora":
        raise SettingError(f"{directory} is quantised, where LoRA is Q-LoRA; use --method qlora")
    if not is_quantised and method == "qlora":
        raise SettingError(
            f"{directory} is not quantised; use --method lora, or an -Int4 checkpoint (qwartet quantize makes one)"
        )


def _check_targets(layout: Layout, targets: Sequence[str]) -> None:
    for target in targets:
        if not any(_is_target(spec.disk_name, (target,)) for spec in layout if spec.kind == "linear"):
            known = sorted({spec.disk_name.rpartition(".")[2] for spec in layout if spec.kind == "linear"})
            raise SettingError(
                f"lora_target_modules names {target!r:.60}, which is not a linear of this model; choose from "
                f"{', '.join(known)}"
            )


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)
