"""A GGUF file of a published size with random weights, as llama.cpp's converter would write it for its family.

    type    block                                          value                  bits
    f16     -                                              fp16                   16
    q4_0    fp16 d, 16 bytes q of 4 bits                   d * (q - 8)            4.5
    q8_0    fp16 d, 32 bytes q of 8 bits, signed           d * q                  8.5
    q6_k    128 + 64 bytes q of 6 bits, 16 bytes s, fp16 d d * s * (q - 32)       6.6

Of the first generation, llama.cpp stores the file's intermediate_size, twice the width of the MLP, and halves it when
it loads (LLM_ARCH_QWEN). With tied embeddings there is no output.weight: token_embd has the type of the head, and is
both.
A model without a vocabulary loads when tokenizer.ggml.model is "none" and vocab_size says how many ids there are.
Its source: src/models/qwen.cpp, qwen2.cpp and qwen3.cpp, conversion/qwen.py, src/llama-vocab.cpp,
ggml/src/ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwartet.bench.random_values import (
    BIAS_STD,
    CODE_DEVIATION,
    EMBEDDING_STD,
    LOGITS_STD,
    SLICE_BYTES,
    RandomStream,
    normal_table,
    scale_table,
    slices,
)
from qwartet.errors import SettingError
from qwartet.files import atomic_write, check_free_space
from qwartet.models.shapes import Shape

if TYPE_CHECKING:
    from gguf import GGUFWriter

BodyType = Literal["q4_0", "q8_0"]
HeadType = Literal["f16", "q4_0", "q8_0", "q6_k"]
TensorType = Literal["f32", "f16", "q4_0", "q8_0", "q6_k"]
FILE_TYPES = {"q4_0": 2, "q8_0": 7}  # general.file_type, which llama.cpp shows


@dataclass(frozen=True)
class BlockFormat:
    """How a quantised tensor type lays out its blocks."""

    num_values: int  # of a block
    num_bytes: int  # of a block
    scale_at: int  # byte at which its fp16 scale begins
    code_bits: int  # of the codes that must have a mean of zero: see RandomStream.codes
    deviation: float  # root mean square of value / scale, for random bytes


_SIGNED_BYTE = CODE_DEVIATION[8]
BLOCK_FORMATS: dict[str, BlockFormat] = {
    "q4_0": BlockFormat(32, 18, 0, 4, CODE_DEVIATION[4]),
    "q8_0": BlockFormat(32, 34, 0, 8, _SIGNED_BYTE),
    "q6_k": BlockFormat(256, 210, 208, 8, _SIGNED_BYTE * ((64**2 - 1) / 12 + 0.25) ** 0.5),
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file; its values exist only while they are written."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # [N, K] or [N]; the file itself lists the dimensions the other way round
    std: float  # 0: all values are 1 (a norm)

    @property
    def num_values(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        if self.type in BLOCK_FORMATS:
            block = BLOCK_FORMATS[self.type]
            return self.num_values // block.num_values * block.num_bytes
        return self.num_values * (4 if self.type == "f32" else 2)

    def values(self, seed: int) -> Iterator[NDArray[Any]]:
        """The tensor's bytes, in slices."""
        stream = RandomStream(seed, self.name)
        if self.type in BLOCK_FORMATS:
            yield from _random_blocks(stream, BLOCK_FORMATS[self.type], self.num_values, self.std)
            return
        table = normal_table(self.std, "F16")
        for size in slices(self.num_values, SLICE_BYTES // 4):
            half = stream.choose(table, size).view(np.float16)
            values = half if self.std else np.ones(size, np.float16)
            yield values.astype(np.float32) if self.type == "f32" else values


def gguf_name(shape: Shape, body: BodyType, head: HeadType, seed: int) -> str:
    """The general.name of such a file: enough to tell whether an existing file can be used."""
    return f"{shape.name}, {shape.num_layers} layers, {body}, head {head}, random weights (seed {seed})"


def gguf_tensors(shape: Shape, body: BodyType, head: HeadType) -> list[GgufTensor]:
    """All tensors, in the order of the forward pass; SettingError if a type does not fit the shape."""
    hidden, vocab, is_tied = shape.hidden_size, shape.vocab_size, shape.tied_embeddings
    tensors = [GgufTensor("token_embd.weight", head if is_tied else body, (vocab, hidden), EMBEDDING_STD)]
    for layer in range(shape.num_layers):
        tensors += _block(shape, f"blk.{layer}", body)
    tensors.append(GgufTensor("output_norm.weight", "f32", (hidden,), 0))
    if not is_tied:
        tensors.append(GgufTensor("output.weight", head, (vocab, hidden), LOGITS_STD * hidden**-0.5))
    for tensor in tensors:
        if tensor.type in BLOCK_FORMATS and tensor.shape[-1] % BLOCK_FORMATS[tensor.type].num_values:
            block = BLOCK_FORMATS[tensor.type].num_values
            reason = f"{tensor.name} has {tensor.shape[-1]} inputs, and {tensor.type} has blocks of {block}"
            raise SettingError(f"{reason}; choose another type")
    return tensors


def _block(shape: Shape, prefix: str, body: BodyType) -> Iterator[GgufTensor]:
    """The tensors of one block; only the first generation stores q, k and v as one."""
    hidden, mlp = shape.hidden_size, shape.intermediate_size
    query, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim

    def linear(name: str, out_features: int, in_features: int) -> GgufTensor:
        return GgufTensor(f"{prefix}.{name}.weight", body, (out_features, in_features), in_features**-0.5)

    def norm(name: str, size: int) -> GgufTensor:
        return GgufTensor(f"{prefix}.{name}.weight", "f32", (size,), 0)

    yield norm("attn_norm", hidden)
    parts = {"attn_q": query, "attn_k": kv, "attn_v": kv}
    for name, rows in ({"attn_qkv": query + 2 * kv} if shape.family == "qwen" else parts).items():
        yield linear(name, rows, hidden)
        if shape.family != "qwen3":
            yield GgufTensor(f"{prefix}.{name}.bias", "f32", (rows,), BIAS_STD)
    if shape.family == "qwen3":
        yield norm("attn_q_norm", shape.head_dim)
        yield norm("attn_k_norm", shape.head_dim)
    yield linear("attn_output", hidden, query)
    yield norm("ffn_norm", hidden)
    yield linear("ffn_gate", mlp, hidden)
    yield linear("ffn_up", mlp, hidden)
    yield linear("ffn_down", hidden, mlp)


def write_gguf(
    path: Path,
    shape: Shape,
    *,
    body: BodyType = "q4_0",
    head: HeadType = "f16",
    seed: int = 0,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Writes the file at `path`, complete or not at all; on_bytes is called for every slice.

    `body` is the type of the linears and of the embedding, `head` that of the output layer, which is the embedding too
    where they are tied. SettingError without the package gguf, for too little space and for types that do not fit the
    shape.
    """
    tensors = gguf_tensors(shape, body, head)
    gguf = import_gguf()
    path = path.resolve()
    check_free_space(path, sum(tensor.nbytes for tensor in tensors))
    with atomic_write(path) as unfinished:
        writer = gguf.GGUFWriter(unfinished, shape.family)
        try:
            writer.add_name(gguf_name(shape, body, head, seed))
            writer.add_file_type(FILE_TYPES[body])
            _add_shape(writer, shape)
            for tensor in tensors:
                kind = gguf.GGMLQuantizationType[tensor.type.upper()]
                writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            _write_data(writer, tensors, seed, on_bytes or (lambda _count: None))
        finally:
            writer.close()


def import_gguf() -> Any:
    """The package gguf; SettingError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise SettingError("the package gguf is not installed; run: pip install 'qwartet[peers]'") from None
    return gguf


def read_gguf_name(path: Path) -> str:
    """general.name of a GGUF file; SettingError for any other file."""
    gguf = import_gguf()
    try:
        field = gguf.GGUFReader(path).get_field("general.name")
        return "" if field is None else str(field.contents())
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise SettingError(f"{path} cannot be read as GGUF ({error}); remove it, or choose another file") from None


def _add_shape(writer: GGUFWriter, shape: Shape) -> None:
    """The keys from which llama.cpp builds the network."""
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_block_count(shape.num_layers)
    writer.add_embedding_length(shape.hidden_size)
    is_first = shape.family == "qwen"
    writer.add_feed_forward_length((2 if is_first else 1) * shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    if not is_first:
        writer.add_head_count_kv(shape.num_kv_heads)
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rotary_emb_base)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_quantization_version(2)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("none")


def _write_data(writer: GGUFWriter, tensors: list[GgufTensor], seed: int, on_bytes: Callable[[int], None]) -> None:
    """The tensors in the order in which they were announced, each padded to the alignment of the format."""
    assert writer.fout is not None
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    for tensor in tensors:
        start = file.tell()
        for part in tensor.values(seed):
            file.write(part.data)
            on_bytes(part.nbytes)
        assert file.tell() - start == tensor.nbytes, tensor.name
        writer.write_padding(file, tensor.nbytes)


def _random_blocks(stream: RandomStream, block: BlockFormat, num_values: int, std: float) -> Iterator[NDArray[Any]]:
    """Random bytes, and in each block a scale that gives the values their deviation."""
    table = scale_table(std / block.deviation)
    for size in slices(num_values // block.num_values, SLICE_BYTES // block.num_bytes):
        blocks = stream.codes(size * block.num_bytes, block.code_bits).reshape(size, block.num_bytes)
        scales = stream.choose(table, size).view(np.uint8).reshape(size, 2)
        blocks[:, block.scale_at : block.scale_at + 2] = scales
        yield blocks
