"""A checkpoint of a published size with random weights, in the published layout: what benchmarks run on.

    model-00001-of-000NN.safetensors ...   or model.safetensors where one file holds all; the index beside the shards
    config.json, generation_config.json    as published; quantize_config.json too for int4 and int8

Tensors are made slice by slice while they are written, so memory stays bounded at any size. Weights have a mean of zero
and a variance of 1 / in_features, so activations stay of order 1 and logits have a standard deviation of about 2: speed
does not depend on the values, but kernels that round activations must meet plausible ones.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwartet.bench.random_values import (
    BIAS_STD,
    CODE_DEVIATION,
    EMBEDDING_STD,
    LOGITS_STD,
    SLICE_BYTES,
    Bits16,
    RandomStream,
    normal_table,
    scale_table,
    slices,
    to_bits,
)
from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.weight_files import INDEX_NAME
from qwartet.checkpoint.writer import plan_shards
from qwartet.errors import SettingError
from qwartet.files import atomic_write, check_free_space, locked
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of, parse_config
from qwartet.models.generation_config import parse_generation_config
from qwartet.models.shapes import Shape, config_json, generation_config_json
from qwartet.models.vocabulary_match import vocabulary_mismatches
from qwartet.quant_format.config import GptqConfig
from qwartet.tokenizer.vocabulary import Vocabulary

DEFAULT_SHARD_BYTES = 2_000_000_000
VOCABULARY_NAME = "qwen.tiktoken"

Slices = Iterator[NDArray[Any]]
OnBytes = Callable[[int], None]
"""Called with the bytes of every slice written."""


@dataclass(frozen=True)
class RandomTensor:
    """A tensor of the checkpoint; its values exist only while they are written."""

    name: str
    dtype: Literal["F16", "BF16", "I32"]
    shape: tuple[int, ...]
    values: Callable[[], Slices]  # slices of any 1-D layout whose bytes are the tensor's

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (4 if self.dtype == "I32" else 2)


@dataclass(frozen=True)
class Synthesis:
    """A planned checkpoint: nothing has been written yet."""

    config: ModelConfig
    tensors: tuple[RandomTensor, ...]
    jsons: dict[str, dict[str, Any]]  # file name -> content
    vocabulary: Path | None  # a .tiktoken file to copy

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


def plan_synthesis(
    shape: Shape, gptq: GptqConfig | None, *, seed: int = 0, vocabulary: Path | None = None, counts: bool = False
) -> Synthesis:
    """Plans a checkpoint: GPTQ with fp16 around it, or all bf16 where `gptq` is None.

    The same seed gives the same values, and the first layers of a shape with fewer layers are those of the whole.
    With `counts` the most probable id after t is t + 1, so that a benchmark knows what the text will be.
    SettingError for a negative seed and for what a family does not have, VocabularyError or CheckpointError for a
    vocabulary that does not fit.
    """
    if seed < 0:
        raise SettingError(f"seed is {seed}; it must not be negative")
    if vocabulary is not None and shape.family != "qwen":
        raise SettingError(f"{shape.name} does not read .tiktoken files; leave --vocabulary out")
    if counts and shape.tied_embeddings:
        raise SettingError(f"{shape.name} has no output head of its own, which --counts needs; choose another size")
    raw = config_json(shape, gptq)
    config = parse_config(raw, Path("config.json"))
    known = None if vocabulary is None else Vocabulary.load(vocabulary)
    generation = generation_config_json(shape, None if known is None else known.num_ranks)
    if known is not None and vocabulary is not None:
        defaults = parse_generation_config(generation, Path("generation_config.json"))
        for error in vocabulary_mismatches(known, config, defaults, vocabulary):
            raise error
    jsons = {"config.json": raw, "generation_config.json": generation}
    if gptq is not None:
        jsons["quantize_config.json"] = gptq.to_dict()
    layout = layout_of(config)
    parts = (part for module in layout for part in _stored_parts(layout, module))
    tensors = tuple(tensor for part in parts for tensor in _tensors(layout, part, gptq, seed))
    if counts:
        head = _counting_head(tensors, layout.parameter_name("embedding.weight"))
        tensors = tuple(head if tensor.name == head.name else tensor for tensor in tensors)
    return Synthesis(config, tensors, jsons, vocabulary)


def write_synthesis(
    synthesis: Synthesis,
    target: Path,
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_bytes: OnBytes | None = None,
) -> list[Path]:
    """Writes a planned checkpoint into `target`, which must not exist or be empty; returns its safetensors files.

    All of it appears there, at the end, or nothing: after any failure, or Ctrl-C, its files are removed.
    SettingError for a target that is in use or being written and for too little free space, OSError if writing
    fails.
    """
    target = target.resolve()
    _check_target(target)
    check_free_space(target, synthesis.nbytes)

    def on_busy() -> None:
        raise SettingError(f"{target}: another process is writing it; wait until that ends, or choose another name")

    with locked(target.with_name(f".{target.name}.lock"), on_busy), atomic_write(target) as directory:
        directory.mkdir()
        for name, content in synthesis.jsons.items():
            _write_json(directory / name, content)
        if synthesis.vocabulary is not None:
            shutil.copyfile(synthesis.vocabulary, directory / VOCABULARY_NAME)
        names = _write_shards(directory, synthesis, max_shard_bytes, on_bytes or (lambda _count: None))
    return [target / name for name in names]


# --- what the tensors are


def _stored_parts(layout: Layout, module: ModuleSpec) -> Iterator[ModuleSpec]:
    """The module as the file has it: a fused qkv in three parts, a head that is the embedding not at all."""
    if not (module.kind == "head" and layout.is_tied):
        for name, rows in module.parts:
            yield replace(module, shape=(rows, *module.shape[1:]), parts=((name, rows),))


def _tensors(layout: Layout, module: ModuleSpec, gptq: GptqConfig | None, seed: int) -> Iterator[RandomTensor]:
    """The tensors of one module in one part, as a published checkpoint stores them."""
    shape, name = module.shape, module.disk_name
    dtype: Literal["F16", "BF16"] = "BF16" if gptq is None else "F16"

    def normal(leaf: str, shape: tuple[int, ...], std: float) -> RandomTensor:
        stream = partial(RandomStream, seed, f"{name}.{leaf}")
        values = partial(_chosen, stream, partial(normal_table, std, dtype), math.prod(shape))
        return RandomTensor(f"{name}.{leaf}", dtype, shape, values)

    if len(shape) == 1:
        one = to_bits(np.ones(1), dtype)
        yield RandomTensor(f"{name}.weight", dtype, shape, partial(_repeated, one, shape[0]))
    elif module.kind == "embedding":
        yield normal("weight", shape, EMBEDDING_STD)
    elif module.kind == "head":
        yield normal("weight", shape, LOGITS_STD / shape[1] ** 0.5)
    elif gptq is None:
        yield normal("weight", shape, shape[1] ** -0.5)
    else:
        yield from _gptq_tensors(layout, module, gptq, seed)
    if module.needs_bias:
        yield normal("bias", shape[:1], BIAS_STD)
    elif gptq is not None and module.kind == "linear":
        yield RandomTensor(f"{name}.bias", dtype, shape[:1], partial(_repeated, np.zeros(1, np.uint16), shape[0]))


def _counting_head(tensors: Sequence[RandomTensor], embedding_name: str) -> RandomTensor:
    """Row t + 1 of the head is row t of the embedding, which the residual stream still points to after all blocks."""
    embedding = next(tensor for tensor in tensors if tensor.name == embedding_name)
    hidden_size = embedding.shape[1]

    def values() -> Slices:
        last_row = None
        for part in embedding.values():
            last_row = part[-hidden_size:]
        assert last_row is not None and len(last_row) == hidden_size, "the last slice holds the last row"
        yield last_row
        for part in embedding.values():
            is_last = part[-hidden_size:].tobytes() == last_row.tobytes()
            yield part[:-hidden_size] if is_last else part

    return RandomTensor("lm_head.weight", embedding.dtype, embedding.shape, values)


def _gptq_tensors(layout: Layout, module: ModuleSpec, gptq: GptqConfig, seed: int) -> Iterator[RandomTensor]:
    """qweight, qzeros, scales and g_idx of a linear of [N, K]."""
    name, bits = module.disk_name, gptq.bits
    out_features, in_features = module.shape
    group_size = in_features if gptq.group_size == -1 else min(gptq.group_size, in_features)
    num_groups = -(-in_features // group_size)
    codes_shape = (in_features * bits // 32, out_features)
    codes = partial(_codes, partial(RandomStream, seed, f"{name}.qweight"), 4 * math.prod(codes_shape), bits)
    yield RandomTensor(f"{name}.qweight", "I32", codes_shape, codes)
    # Stored one too low, as format v1 has it: zero 8 is stored as 7, 128 as 127.
    zeros = np.array([0x7777_7777 if bits == 4 else 0x7F7F_7F7F], np.int32)
    zeros_shape = (num_groups, out_features * bits // 32)
    yield RandomTensor(f"{name}.qzeros", "I32", zeros_shape, partial(_repeated, zeros, math.prod(zeros_shape)))
    table = partial(scale_table, 1 / (CODE_DEVIATION[bits] * in_features**0.5))
    scales = partial(_chosen, partial(RandomStream, seed, f"{name}.scales"), table, num_groups * out_features)
    yield RandomTensor(f"{name}.scales", "F16", (num_groups, out_features), scales)
    # Up and gate read the same activations, so GPTQ orders their inputs alike.
    reader = layout[module.name.replace("mlp.gate", "mlp.up")].disk_name
    order = RandomStream(seed, f"{reader}.g_idx") if gptq.desc_act else None
    yield RandomTensor(f"{name}.g_idx", "I32", (in_features,), partial(_group_index, in_features, group_size, order))


def _codes(stream: Callable[[], RandomStream], num_bytes: int, bits: int) -> Slices:
    source = stream()
    return (source.codes(size, bits) for size in slices(num_bytes, SLICE_BYTES))


def _chosen(stream: Callable[[], RandomStream], table: Callable[[], Bits16], count: int) -> Slices:
    source, values = stream(), table()
    return (source.choose(values, size) for size in slices(count, SLICE_BYTES // 2))


def _repeated(value: NDArray[Any], count: int) -> Slices:
    return (np.full(size, value) for size in slices(count, SLICE_BYTES // value.itemsize))


def _group_index(in_features: int, group_size: int, order: RandomStream | None) -> Slices:
    inputs = np.arange(in_features) if order is None else order.permutation(in_features)
    yield (inputs // group_size).astype(np.int32)


# --- how they get onto the disk


def _check_target(target: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()):
            raise SettingError(f"{target} is not empty; choose a new directory, or empty this one")
    elif target.exists():
        raise SettingError(f"{target} exists and is not a directory; choose another name")


def _write_shards(directory: Path, synthesis: Synthesis, max_shard_bytes: int, on_bytes: OnBytes) -> list[str]:
    """Writes all shards, and the index where there are several; returns the names of the files."""
    shards = plan_shards(synthesis.tensors, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(directory / file, shard, on_bytes)
        weight_map.update({tensor.name: file for tensor in shard})
    if len(shards) > 1:
        index = {"metadata": {"total_size": synthesis.nbytes}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(directory / INDEX_NAME, index)
    return sorted(set(weight_map.values()))


def _write_shard(path: Path, tensors: Sequence[RandomTensor], on_bytes: OnBytes) -> None:
    """One safetensors file: its header first, then the tensors in the same order, without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned, as the library writes it
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            start = file.tell()
            for part in tensor.values():
                file.write(part.data)
                on_bytes(part.nbytes)
            assert file.tell() - start == tensor.nbytes, tensor.name


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
