"""Sharded training: what the launcher asked for, checked, because accelerate drops it silently in some cases."""

from __future__ import annotations

import os
from typing import Any

from accelerate import DistributedType  # type: ignore[import-untyped]
from transformers.utils import strtobool

from qwartet.errors import SettingError

_HOW = "start it with: accelerate launch --config_file FILE -m qwartet finetune ..."


def wants_fsdp() -> bool:
    """Whether `accelerate launch` was told to shard parameters."""
    return bool(strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false")))


def zero_stage(trainer: Any) -> int | None:
    """DeepSpeed's stage; None without DeepSpeed."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return None if plugin is None else int(plugin.zero_stage)


def check(trainer: Any) -> None:
    """Turns FSDP on where accelerate 1.15 ignores it, on CPUs; SettingError where it cannot be had."""
    accelerator = trainer.accelerator
    if not wants_fsdp() or accelerator.distributed_type == DistributedType.FSDP:
        return
    if accelerator.num_processes == 1:
        raise SettingError(f"FSDP shards over several processes, and this is one; {_HOW}, or leave FSDP out")
    if accelerator.distributed_type != DistributedType.MULTI_CPU:
        raise SettingError(f"FSDP was requested, but accelerate chose {accelerator.distributed_type.value}; {_HOW}")
    from accelerate.utils import FullyShardedDataParallelPlugin  # type: ignore[import-untyped]

    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise SettingError("FSDP version 1 is not supported; set fsdp_version: 2 in the configuration of accelerate")
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    trainer.is_fsdp_enabled = True
