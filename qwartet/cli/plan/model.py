"""Which model to plan for: a local checkpoint, a published one by its name, or another one by its config on a hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwartet.errors import CheckpointError, ModelNotFoundError, SettingError
from qwartet.hub.repository import HubName, Repository, parse_repository
from qwartet.hub.resolve import did_you_mean, resolve
from qwartet.models.shapes import ALL_SHAPES, Method, Precision, Shape, config_json, gptq_config

if TYPE_CHECKING:
    from qwartet.checkpoint.shards import Checkpoint
    from qwartet.models.config import ModelConfig
    from qwartet.planning.stored_model import PlannedModel
    from qwartet.quant_format.config import GptqConfig

# Qwen/Qwen-72B-Chat-Int4, qwen-1_8b, modelscope:qwen/Qwen-7B; Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4, Qwen/Qwen3-8B-AWQ
_PUBLISHED = re.compile(
    r"(?:(?:hf|modelscope):)?(?:qwen/)?"
    r"(?:qwen-(?P<first>1[_.]8b|7b|14b|72b)(?:-chat)?|(?P<later>qwen(?:2\.5|3)-[\d.]{1,4}b)(?:-instruct|-base)?(?:-gptq)?)"
    r"(?:-(?P<precision>int4|int8|awq))?",
    re.IGNORECASE,
)
_FILE_DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
_TORCH_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def find_model(
    name: str,
    precision: Precision | None,
    revision: str | None,
    source: HubName = "hf",
    *,
    unnamed: Precision = "int4",
) -> PlannedModel:
    """A directory, a downloaded hub id, a published size ("72b") or name, or a model on a hub, in this order.

    A hub is contacted only for a hub id that is neither downloaded nor published, and only for its config.json;
    `source` is the hub of an id without a prefix, `unnamed` the precision of a published size. ModelNotFoundError,
    DownloadError and CheckpointError say what is wrong with the model, SettingError which options do not belong to it.
    """
    size = ALL_SHAPES.get(name.lower())
    if size is not None and (precision is not None or not Path(name).is_dir()):
        if revision is not None:
            raise SettingError(f"--revision needs a hub id, and {name} is a published size; leave it out")
        return _published(size, precision or unnamed)
    if precision is not None:
        raise SettingError(f"--precision needs a published size ({', '.join(ALL_SHAPES)}); {name} has one of its own")
    from qwartet.planning.stored_model import stored_model

    repository = None if os.path.lexists(os.path.expanduser(name)) else parse_repository(name, source)
    try:
        return stored_model(resolve(name if repository is None else str(repository), revision=revision, download=False))
    except ModelNotFoundError as error:
        if published := _PUBLISHED.fullmatch(name):
            key = (published["first"] or published["later"]).lower().replace("_", ".")
            if (size := ALL_SHAPES.get(key)) is not None:
                stated = (published["precision"] or "bf16").lower()
                return _published(size, "int4", "awq") if stated == "awq" else _published(size, stated)  # type: ignore[arg-type]
        if repository is None or "/" not in repository.name:
            choice = f"{', '.join(ALL_SHAPES)}, or a name such as Qwen/Qwen-72B-Chat-Int4"
            raise ModelNotFoundError(f"{error}; without a download: {choice}") from None
    return _on_hub(repository, revision)


def _published(size: Shape, precision: Precision, method: Method = "gptq") -> PlannedModel:
    from qwartet.models.families import parse_config
    from qwartet.planning.stored_model import PlannedModel

    gptq = gptq_config(precision, method=method)
    config = parse_config(config_json(size, gptq), Path("config.json"))
    checkpoint = _planned(size.name, config, gptq, "BF16" if gptq is None else "F16")
    return PlannedModel(checkpoint, config, gptq, size.num_ranks, size.name, precision)


def _on_hub(repository: Repository, revision: str | None) -> PlannedModel:
    from qwartet.hub.remote_config import fetch_config
    from qwartet.models.families import parse_config
    from qwartet.planning.stored_model import PlannedModel
    from qwartet.quant_format.methods import parse_quantization_config

    raw = fetch_config(repository, revision, did_you_mean(repository))
    path = Path(f"{repository}/config.json")
    if not isinstance(raw.get("model_type"), str):
        raise CheckpointError(path, "does not name a model_type", hint="choose the hub id of a checkpoint")
    config = parse_config(raw, path)
    embedded = raw.get("quantization_config")
    gptq = None if embedded is None else parse_quantization_config(embedded, path)
    precision = _float_precision(raw) if gptq is None else f"int{gptq.bits}"
    checkpoint = _planned(str(repository), config, gptq, "F16" if gptq else _FILE_DTYPES[precision])
    # The size of its vocabulary is not in config.json; the rows of the embedding are a few hundred more.
    return PlannedModel(checkpoint, config, gptq, config.vocab_size, None, precision)


def _float_precision(raw: dict[str, Any]) -> str:
    """The dtype that a config.json states; bf16, as published, where it states none."""
    declared = [name for name in _FILE_DTYPES if raw.get(name) is True]
    return declared[0] if declared else _TORCH_DTYPES.get(str(raw.get("dtype", raw.get("torch_dtype"))), "bf16")


def _planned(name: str, config: ModelConfig, gptq: GptqConfig | None, dtype: str) -> Checkpoint:
    from qwartet.checkpoint.planned_tensors import planned_tensors
    from qwartet.models.families import layout_of
    from qwartet.planning.planned_checkpoint import PlannedCheckpoint

    return PlannedCheckpoint(name, planned_tensors(layout_of(config), gptq, dtype))
