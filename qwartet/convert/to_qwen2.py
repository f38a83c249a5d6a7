"""A checkpoint of first-generation Qwen -> the Qwen2 layout, which the engines of today read.

The network is the same, so its logits are; what the layout cannot say (LogN, an NTK that depends on the prompt) limits
the context. Tensors are made and written one by one. The new directory appears complete or not at all.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.stream_writer import OnBytes, stream_shards
from qwartet.checkpoint.weight_values import check_values
from qwartet.checkpoint.writer import DEFAULT_SHARD_BYTES, LICENCES, copy_files, flush, write_json
from qwartet.convert.later_layouts import LaterFamily, later_layout
from qwartet.convert.qwen2_files import (
    Reach,
    config_json,
    end_ids,
    generation_config_json,
    reach_of,
    tokenizer_config_json,
)
from qwartet.convert.qwen2_source import check_method
from qwartet.convert.record import Record, write_record
from qwartet.convert.rewrite import NewForm, Rewriting, bias_dtype, float_dtype
from qwartet.convert.tokenizer_json import tokenizer_json
from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.files import check_free_space, new_directory
from qwartet.models.config import ModelConfig
from qwartet.models.families import family_of, load_config
from qwartet.models.generation_config import GenerationDefaults, load_generation_defaults
from qwartet.models.load import OpenCheckpoint, load_gptq_config, open_checkpoint
from qwartet.models.vocabulary_files import load_tokenizer
from qwartet.models.vocabulary_match import vocabulary_mismatches
from qwartet.quant_format.config import GptqConfig
from qwartet.tokenizer.vocabulary import Vocabulary

SMALL_FILES = 2**25  # bytes of tokenizer.json and the others
_TILE = 128  # channels that kernels take together


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    target: str
    layout: str  # "qwen2", "llama", "qwen1"
    files: list[str]  # with tensors
    bytes: int  # of tensors
    context: int  # longest prompt and answer, in tokens
    mlp_width: int
    zero_channels: int = 0  # of the MLP, added or taken away
    ntk_alpha: int = 1  # folded into rope_theta
    has_tokenizer: bool = True


@dataclass(frozen=True)
class _Source:
    opened: OpenCheckpoint
    defaults: GenerationDefaults
    vocabulary: Vocabulary | None

    @property
    def directory(self) -> Path:
        return self.opened.checkpoint.directory


def convert_to_qwen2(
    source: Path,
    target: Path,
    *,
    context: int | None = None,
    ranks: int = 1,
    chat_format: str | None = None,
    checkpoint_format: str | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_bytes: OnBytes | None = None,
) -> Converted:
    """Writes the checkpoint `source` in the Qwen2 layout, or Llama's where it has biases on all linears, to `target`.

    `ranks` widens the MLP by zeros so that tensor parallelism over so many devices cuts no GPTQ group.
    CheckpointError for a source that is damaged, of another kind or already converted; SettingError for options out of
    bounds and too little disk space.
    """
    found = _open(source, chat_format, checkpoint_format)
    opened = found.opened
    reach = reach_of(opened.config.position, context)
    width = padded_width(opened.config, opened.gptq, ranks)
    family: LaterFamily = "llama" if has_real_biases(opened) else "qwen2"
    config = replace(opened.config, intermediate_size=width)
    rewriting = Rewriting(opened, _new_form(opened, later_layout(config, family), family))
    tensors = list(rewriting.tensors())
    total = sum(tensor.nbytes for tensor in tensors)
    check_free_space(target.absolute(), total + SMALL_FILES, "free some space, or choose another disk")
    _warn_of_losses(found, reach, is_default=context is None)
    with new_directory(target) as output:
        files = stream_shards(output, tensors, max_shard_bytes, on_bytes)
        _write_configs(found, output, config, family, reach)
        copy_files(source, output, patterns=LICENCES)
        write_record(source, output, _record(opened, rewriting, context))
        flush(output)
    added = width - opened.config.intermediate_size
    has_tokenizer = found.vocabulary is not None
    return Converted(str(target), family, files, total, reach.max_length, width, added, reach.ntk_alpha, has_tokenizer)


def _open(source: Path, chat_format: str | None, checkpoint_format: str | None) -> _Source:
    config = load_config(source)
    if config.family != "qwen":
        reason = f"model_type is {config.family!r}; only first-generation Qwen can be converted to the Qwen2 layout"
        raise CheckpointError(source / "config.json", reason, hint="other engines read this checkpoint as it is")
    check_method(load_gptq_config(source), source / "config.json")
    opened = open_checkpoint(source, "pread", checkpoint_format)
    dim, head = config.position.rotary_dim, config.head_dim
    if dim != head:
        reason = f"rotary_pct rotates {dim} of {head} elements of a head, which the Qwen2 layout cannot express"
        raise CheckpointError(source / "config.json", reason, hint="run it with Qwartet")
    check_values(opened.checkpoint, opened.layout)
    defaults = load_generation_defaults(source, chat_format)
    vocabulary = load_tokenizer(source).vocabulary if family_of(config).has_tokenizer(source) else None
    if vocabulary is not None:
        for error in vocabulary_mismatches(vocabulary, config, defaults, source):
            raise error
    return _Source(opened, defaults, vocabulary)


def has_real_biases(opened: OpenCheckpoint) -> bool:
    """Whether a linear other than q, k and v has a bias that is not zero."""
    names = (
        name
        for module in opened.layout
        if module.kind == "linear" and not module.needs_bias
        for name in module.disk_names("bias")
    )
    return any(bool(opened.checkpoint.read(name).count_nonzero()) for name in names if name in opened.checkpoint)


def padded_width(config: ModelConfig, gptq: GptqConfig | None, ranks: int) -> int:
    """The width of the MLP, such that each rank gets whole GPTQ groups; SettingError if attention cannot be shared."""
    if not 1 <= ranks <= config.num_heads or config.num_heads % ranks:
        heads = config.num_heads
        raise SettingError(f"--pad-for-tensor-parallel is {ranks}; it must divide the model's {heads} attention heads")
    width, group_size = config.intermediate_size, _TILE
    if ranks == 1 or (gptq is None and width % ranks == 0):
        return width
    if gptq is not None and gptq.group_size != -1:
        group_size = gptq.group_size
        if config.hidden_size // ranks % group_size:
            cut = f"over {ranks} devices, GPTQ groups of {group_size} inputs would be cut in the attention output"
            raise SettingError(f"--pad-for-tensor-parallel is {ranks}; {cut}: use fewer devices")
    unit = math.lcm(group_size, _TILE) * ranks
    return -(-width // unit) * unit


def _new_form(opened: OpenCheckpoint, layout: Layout, family: LaterFamily) -> NewForm:
    linears = [module for module in opened.layout if module.kind == "linear"]
    kept = [module for module in linears if family == "llama" or module.needs_bias]
    return NewForm(layout, {module.name: _bias_dtype_or_own(opened, module) for module in kept})


def _bias_dtype_or_own(opened: OpenCheckpoint, module: ModuleSpec) -> str:
    return bias_dtype(opened, module) or float_dtype(opened, module)


def _warn_of_losses(found: _Source, reach: Reach, *, is_default: bool) -> None:
    opened, position, source = found.opened, found.opened.config.position, found.directory
    trained = position.train_length
    if opened.gptq is not None and opened.gptq.desc_act:
        _warn(source, "uses act-order (desc_act), which vLLM 0.32 and later refuse; transformers runs it")
    if is_default and reach.max_length < position.max_length:
        limit = f"the context is limited to the trained length of {trained} tokens"
        _warn(source, f"{limit}, up to which results are exact; --context sets a longer one")
    if position.use_logn_attn and reach.max_length > trained:
        _warn(
            source, f"the Qwen2 layout has no LogN attention; logits differ from the original's beyond {trained} tokens"
        )
    if reach.ntk_alpha > 1:
        base = f"rope_theta is fixed at the NTK base for {reach.max_length} tokens (alpha {reach.ntk_alpha})"
        _warn(source, f"{base}; the original uses a smaller one for shorter prompts")
    if found.vocabulary is None:
        _warn(source, "no .tiktoken file found; the converted checkpoint has no tokenizer")
    if several := [words for words in found.defaults.stop_words_ids if len(words) > 1]:
        _warn(source, f"multi-token stop_words_ids are left out: {several!r:.80}")


def _warn(source: Path, text: str) -> None:
    warnings.warn(f"{source}: {text}", CheckpointWarning, stacklevel=4)


def _write_configs(found: _Source, output: Path, config: ModelConfig, family: LaterFamily, reach: Reach) -> None:
    opened, defaults, vocabulary = found.opened, found.defaults, found.vocabulary
    gptq = opened.gptq
    if gptq is not None and gptq.sym:
        gptq = replace(gptq, checkpoint_format="gptq")
    ends = end_ids(defaults, vocabulary)
    dtype = float_dtype(opened, opened.layout["embedding"])
    eos = ends[0] if ends else None
    write_json(output / "config.json", config_json(config, family, reach, dtype, gptq, eos))
    if gptq is not None:
        write_json(output / "quantize_config.json", gptq.to_dict())
    if has_file(found.directory / "generation_config.json"):
        raw = read_json(found.directory / "generation_config.json")
        write_json(output / "generation_config.json", generation_config_json(raw, ends))
    if vocabulary is not None:
        write_json(output / "tokenizer.json", tokenizer_json(vocabulary))
        content = tokenizer_config_json(vocabulary, family, reach.max_length, defaults.is_chat)
        write_json(output / "tokenizer_config.json", content)


def _record(opened: OpenCheckpoint, rewriting: Rewriting, context: int | None) -> Record:
    linears = [module for module in opened.layout if module.kind == "linear"]
    return Record(
        mlp_width=opened.config.intermediate_size,
        context=context,
        biases={module.name: dtype for module in linears if (dtype := bias_dtype(opened, module)) is not None},
        v2_zeros=tuple(sorted(rewriting.found_v2_zeros)),
        without_g_idx=tuple(
            module.name
            for module in linears
            if opened.gptq is not None and f"{module.disk_name}.g_idx" not in opened.checkpoint
        ),
    )
