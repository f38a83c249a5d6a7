"""What is in a checkpoint and what is wrong with it: everything that can be found without running it.

The checks are those of loading, in the same order and words. Loading stops at the first problem; here each step runs on
its own, and a tensor that fails is set aside so that the next one is checked too.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from qwartet.checkpoint.expected_tensors import check_dense_shapes, check_names
from qwartet.checkpoint.held_tensors import held_tensors
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.safetensors_file import read_tensor_infos
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.unfinished_downloads import check_downloads
from qwartet.checkpoint.weight_files import find_weights
from qwartet.checkpoint.weight_values import check_unused_biases, value_findings, warn_of
from qwartet.checkpoint.weights import read_quantized_weight
from qwartet.checkpoint.zero_version import with_zero_version
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.kernels.device_memory import available_bytes
from qwartet.layers.kv_cache import kv_bytes_per_token
from qwartet.models.config import ModelConfig
from qwartet.models.families import family_of, layout_of, load_config
from qwartet.models.generation_config import GenerationDefaults, load_generation_defaults
from qwartet.models.load import choose_settings, load_gptq_config
from qwartet.models.residency import weights_bytes
from qwartet.models.vocabulary_files import extra_vocabulary
from qwartet.models.vocabulary_match import ids_out_of_range, vocabulary_mismatches
from qwartet.quant_format.config import GptqConfig
from qwartet.tokenizer.tiktoken_tokenizer import find_vocabulary
from qwartet.tokenizer.vocabulary import Vocabulary

# qwen.tiktoken, identical in every published first-generation Qwen
PUBLISHED_VOCABULARY_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"

_CONFIG_FILES = {
    *("config.json", "generation_config.json", "quantize_config.json", "tokenizer_config.json", "tokenizer.json"),
    "chat_template.jinja",
}

T = TypeVar("T")


@dataclass
class Inspection:
    """The findings about one directory; a part that could not be read is None or empty."""

    path: str
    problems: list[str] = field(default_factory=list)  # it does not load, or not correctly
    warnings: list[str] = field(default_factory=list)  # odd, but usable
    model: dict[str, Any] | None = None
    sampling: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    weights: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    tokenizer: dict[str, Any] | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collects the CheckpointWarnings raised inside, and the CheckpointError that ends it; each text once."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            except CheckpointError as error:
                _add(self.problems, str(error))
        for item in caught:
            if issubclass(item.category, CheckpointWarning):
                _add(self.warnings, str(item.message))

    def attempt(self, step: Callable[..., T], *arguments: Any) -> T | None:
        """Result of a step; None when it failed, with the reason added to the problems."""
        with self.collected():
            return step(*arguments)
        return None


def _add(texts: list[str], text: str) -> None:
    if text not in texts:
        texts.append(text)


def inspect_checkpoint(directory: Path) -> Inspection:
    """Reads headers, configs, vocabulary and all weights of a checkpoint directory; raises nothing about them."""
    found = Inspection(str(directory))
    config = found.attempt(load_config, directory)
    defaults = found.attempt(load_generation_defaults, directory)
    num_problems = len(found.problems)
    gptq = found.attempt(load_gptq_config, directory)
    knows_linears = len(found.problems) == num_problems
    checkpoint = found.attempt(Checkpoint, directory)
    if config is not None:
        found.model = model_facts(config)
    if defaults is not None:
        found.sampling = sampling_facts(defaults)
        if config is not None:
            found.problems += map(str, ids_out_of_range(defaults, config, directory))
    if checkpoint is None:
        for file in found.attempt(_indexed_files, directory) or ():
            found.attempt(read_tensor_infos, file)
    else:
        found.attempt(check_downloads, directory, checkpoint.files)
        found.weights = _weights(checkpoint)
        found.tensors = _tensors(checkpoint)
    _inspect_vocabulary(found, directory, config, defaults)
    found.files = _files(directory, checkpoint, found.tokenizer)
    layout = None if config is None or checkpoint is None else found.attempt(layout_of, config, checkpoint)
    if config is not None and checkpoint is not None and layout is not None and knows_linears:
        _check_tensors(found, checkpoint, layout, gptq)
        found.memory = found.attempt(_memory, checkpoint, config, layout, gptq)
    return found


def _indexed_files(directory: Path) -> list[Path]:
    """The existing files that an index names; none without an index."""
    weights = find_weights(directory)
    weight_map = read_json(weights).get("weight_map") if weights.suffix == ".json" else None
    names = {name for name in weight_map.values() if isinstance(name, str)} if isinstance(weight_map, dict) else set()
    return [file for file in sorted(directory.glob("*.safetensors")) if file.name in names]


def _check_tensors(found: Inspection, checkpoint: Checkpoint, layout: Layout, gptq: GptqConfig | None) -> None:
    found.attempt(check_names, checkpoint, layout, gptq)
    while (bad := _first_wrong_shape(found, checkpoint, layout, gptq)) is not None:
        del checkpoint.tensors[bad]
    found.attempt(check_unused_biases, checkpoint, layout)
    found.attempt(_check_values, found, checkpoint, layout)
    if gptq is not None:
        found.quantization = _quantization(found, checkpoint, layout, gptq)


def _check_values(found: Inspection, checkpoint: Checkpoint, layout: Layout) -> None:
    """Reads every weight."""
    findings = list(value_findings(checkpoint, layout, whole=True))
    warn_of(findings, checkpoint.directory)
    for finding in findings:
        if finding.num_not_finite and not finding.is_padding:
            _add(found.problems, str(finding.error()))


def _first_wrong_shape(
    found: Inspection, checkpoint: Checkpoint, layout: Layout, gptq: GptqConfig | None
) -> str | None:
    try:
        check_dense_shapes(checkpoint, layout, gptq)
    except CheckpointError as error:
        _add(found.problems, str(error))
        return error.tensor
    return None


def _quantization(found: Inspection, checkpoint: Checkpoint, layout: Layout, gptq: GptqConfig) -> dict[str, Any]:
    """The GPTQ settings, after every quantised linear has been checked against them."""
    formats = set()
    num_checked = 0
    gptq = found.attempt(with_zero_version, gptq, checkpoint, layout) or gptq
    linears = [module for module in layout if module.kind == "linear"]
    for module in linears:
        names = (name for leaf in ("qweight", "qzeros", "scales") for name in module.disk_names(leaf))
        if not all(name in checkpoint for name in names):
            continue
        weight = found.attempt(read_quantized_weight, checkpoint, module, gptq, torch.device("cpu"))
        if weight is not None:
            num_checked += 1
            formats.add(weight.zero_format)
    return {
        **gptq_facts(gptq),
        "zero_format": sorted(formats),
        "num_linears": len(linears),
        "num_sound_linears": num_checked,
    }


def gptq_facts(gptq: GptqConfig) -> dict[str, Any]:
    """How a checkpoint is quantised, as plain values."""
    values = {name: getattr(gptq, name) for name in ("bits", "group_size", "sym", "desc_act")}
    return {"method": "gptq", **values}


def model_facts(config: ModelConfig) -> dict[str, Any]:
    """Shape and positions of a network, as plain values."""
    position = config.position
    return {
        "family": config.family,
        "num_parameters": config.num_parameters,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "rope_theta": position.rope_theta,
        "train_length": position.train_length,
        "max_length": position.max_length,
        "use_dynamic_ntk": position.use_dynamic_ntk,
        "use_logn_attn": position.use_logn_attn,
        "yarn_factor": None if position.yarn is None else position.yarn.factor,
        "declared_dtype": config.declared_dtype,
        "tied_embeddings": config.tied_embeddings,
    }


def sampling_facts(defaults: GenerationDefaults) -> dict[str, Any]:
    """A checkpoint's sampling defaults, as plain values."""
    values = asdict(defaults)
    del values["pad_token_id"]
    eos = values.pop("eos_token_ids")
    return {**values, "eos_token_id": (eos[0] if eos else None) if len(eos) < 2 else list(eos)}


def _weights(checkpoint: Checkpoint) -> dict[str, Any]:
    by_dtype: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        by_dtype[info.dtype] = by_dtype.get(info.dtype, 0) + info.nbytes
    return {
        "num_tensors": len(checkpoint.tensors),
        "num_files": len(checkpoint.files),
        "bytes": checkpoint.nbytes,
        "bytes_by_dtype": dict(sorted(by_dtype.items())),
    }


def _memory(checkpoint: Checkpoint, config: ModelConfig, layout: Layout, gptq: GptqConfig | None) -> dict[str, Any]:
    """Bytes as the default settings load them on a CPU."""
    settings = choose_settings(checkpoint, config, gptq)
    dtype = settings.dtype
    per_token = kv_bytes_per_token(config.num_layers, config.num_kv_heads, config.head_dim, dtype)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "weights_bytes": weights_bytes(held_tensors(checkpoint, layout, settings)),
        "kv_bytes_per_token": per_token,
        "kv_bytes_full_context": per_token * config.position.max_length,
        "available_bytes": available_bytes(torch.device("cpu")),
    }


def _inspect_vocabulary(
    found: Inspection, directory: Path, config: ModelConfig | None, defaults: GenerationDefaults | None
) -> None:
    if config is not None and config.family != "qwen":
        if not family_of(config).has_tokenizer(directory):
            found.warnings.append(f"{directory}: holds no tokenizer.json, so prompts must be token ids; copy it there")
        return
    if not any(directory.glob("*.tiktoken")):
        reason = "holds no .tiktoken file, so prompts must be token ids"
        found.warnings.append(f"{directory}: {reason}; copy qwen.tiktoken into it")
        return
    read = found.attempt(_read_vocabulary, directory)
    if read is None:
        return
    file, extra, vocabulary = read
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    found.tokenizer = {
        "file": file.name,
        "extra_file": None if extra is None else extra.name,
        "num_ranks": vocabulary.num_ranks,
        "num_tokens": vocabulary.num_tokens,
        "sha256": sha256,
        "is_published": sha256 == PUBLISHED_VOCABULARY_SHA256,
    }
    found.problems += map(str, found.attempt(vocabulary_mismatches, vocabulary, config, defaults, directory) or ())


def _read_vocabulary(directory: Path) -> tuple[Path, Path | None, Vocabulary]:
    file, extra = find_vocabulary(directory), extra_vocabulary(directory)
    return file, extra, Vocabulary.load(file, extra)


def _files(directory: Path, checkpoint: Checkpoint | None, tokenizer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    used = set(_CONFIG_FILES)
    if checkpoint is not None:
        used |= {file.name for file in checkpoint.files}
        used |= set() if checkpoint.index is None else {checkpoint.index.name}
    if tokenizer is not None:
        used |= {tokenizer["file"], tokenizer["extra_file"]}
    files = (path for path in sorted(directory.iterdir()) if path.is_file())
    return [{"name": path.name, "bytes": path.stat().st_size, "is_used": path.name in used} for path in files]


def _tensors(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": info.name,
            "dtype": info.dtype,
            "shape": list(info.shape),
            "bytes": info.nbytes,
            "file": info.file.name,
        }
        for info in checkpoint.tensors.values()
    ]
