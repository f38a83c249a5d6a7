"""Sharded training: what the launcher asked for, checked, because accelerate drops it silently in some cases.

`accelerate launch` passes its configuration in the environment, and DeepSpeed has a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from qwartet.checkpoint.json_file import read_json
from qwartet.errors import SettingError
from qwartet.finetune.settings import Method

Sharding = Literal["fsdp", "zero1", "zero2", "zero3"]

_HOW = "start it with: accelerate launch --config_file FILE -m qwartet finetune ..."


def requested_sharding(deepspeed: Path | None) -> Sharding | None:
    """What shards the run; `deepspeed` is a configuration given on the command line."""
    if _is_set("ACCELERATE_USE_FSDP"):
        return "fsdp"
    if deepspeed is None and not _is_set("ACCELERATE_USE_DEEPSPEED"):
        return None
    file = deepspeed or os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if file in (None, "", "none"):
        stage: Any = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    else:
        stage = read_json(Path(str(file))).get("zero_optimization", {}).get("stage", 0)
    names: dict[str, Sharding] = {"1": "zero1", "2": "zero2", "3": "zero3"}
    return names.get(str(stage))


def check_method(method: Method, sharding: Sharding | None, *, trains_whole_modules: bool) -> None:
    """SettingError for what the published scripts refuse or warn of."""
    if method == "lora" and trains_whole_modules and sharding == "zero3":
        raise SettingError(
            "ZeRO-3 cannot be used for LoRA on a base model, which trains the embedding and the head whole; use ZeRO-2 "
            "or FSDP, or a chat model"
        )
    if method == "qlora" and sharding in ("fsdp", "zero3"):
        name = "FSDP" if sharding == "fsdp" else "ZeRO-3"
        raise SettingError(f"{name} cannot shard quantised weights; use ZeRO-2, or --method lora on the float model")


def ensure_sharded(trainer: Any) -> None:
    """Turns FSDP on where accelerate 1.15 ignores it, on CPUs; SettingError where it cannot be had."""
    from accelerate import DistributedType  # type: ignore[import-untyped]
    from accelerate.utils import FullyShardedDataParallelPlugin  # type: ignore[import-untyped]

    accelerator = trainer.accelerator
    if not _is_set("ACCELERATE_USE_FSDP"):
        return
    if accelerator.num_processes == 1:
        raise SettingError(f"FSDP shards over several processes, and this is one; {_HOW}, or leave FSDP out")
    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise SettingError("FSDP version 1 is not supported; set fsdp_version: 2 in the configuration of accelerate")
    if accelerator.distributed_type == DistributedType.FSDP:
        return
    if accelerator.distributed_type != DistributedType.MULTI_CPU:
        raise SettingError(f"FSDP was requested, but accelerate chose {accelerator.distributed_type.value}; {_HOW}")
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    trainer.is_fsdp_enabled = True


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")
