"""A checkpoint in the Qwen2 layout -> first-generation Qwen, if it has such a form.

What `to_qwen2` wrote comes back bit for bit, by the record that it kept; the configs are then the original's own files.
For another checkpoint, configs and vocabulary are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import ModuleSpec
from qwartet.checkpoint.stream_writer import OnBytes, stream_shards
from qwartet.checkpoint.weight_values import value_findings, warn_of
from qwartet.checkpoint.writer import DEFAULT_SHARD_BYTES, LICENCES, copy_files, flush, write_json
from qwartet.convert.qwen2_files import reach_of
from qwartet.convert.qwen2_source import open_later
from qwartet.convert.record import AGAIN, FOLDER, ORIGINALS, Record, has_record, read_record
from qwartet.convert.rewrite import NewForm, Rewriting, bias_dtype
from qwartet.convert.to_qwen2 import SMALL_FILES, Converted
from qwartet.convert.tokenizer_json import vocabulary_of
from qwartet.errors import CheckpointError
from qwartet.files import check_free_space, new_directory
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of, load_config
from qwartet.models.generation_config import parse_eos
from qwartet.models.hf_vocabulary_files import load_hf_tokenizer
from qwartet.models.load import OpenCheckpoint, load_gptq_config
from qwartet.models.shapes import Shape, config_json
from qwartet.models.vocabulary_files import load_tokenizer
from qwartet.models.vocabulary_match import vocabulary_mismatches
from qwartet.quant_format.config import GptqConfig
from qwartet.tokenizer.tiktoken_tokenizer import VOCABULARY_FILE
from qwartet.tokenizer.vocabulary import IM_END, Vocabulary

_SAME = ("hidden_size", "num_layers", "num_heads", "head_dim", "vocab_size", "rms_norm_eps")
_SAME_GPTQ = ("bits", "group_size", "desc_act", "sym")
_NOT_PUBLISHED = ("eos_token_id", "pad_token_id", "bos_token_id", "transformers_version")


@dataclass(frozen=True)
class _Source:
    """A checkpoint to convert back, and the config that the result will have."""

    opened: OpenCheckpoint
    config: ModelConfig
    vocabulary: Vocabulary | None
    record: Record | None

    @property
    def directory(self) -> Path:
        return self.opened.checkpoint.directory


def convert_to_qwen1(
    source: Path,
    target: Path,
    *,
    checkpoint_format: str | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_bytes: OnBytes | None = None,
) -> Converted:
    """Writes the checkpoint `source`, in the Qwen2 or Llama layout, to `target` as first-generation Qwen.

    CheckpointError for a source that is damaged or has no such form, with the reason; SettingError for too little disk
    space.
    """
    opened = open_later(source, checkpoint_format)
    tokenizer = load_hf_tokenizer(source)
    vocabulary = None if tokenizer is None else vocabulary_of(tokenizer.vocabulary)
    record = read_record(source) if has_record(source) else None
    config = replace(opened.config, family="qwen") if record is None else _recorded_config(opened, vocabulary, record)
    found = _Source(opened, config, vocabulary, record)
    for error in vocabulary_mismatches(vocabulary, config, None, source) if vocabulary is not None else ():
        raise error
    _check_values(found)
    rewriting = Rewriting(opened, _new_form(found))
    tensors = list(rewriting.tensors())
    total = sum(tensor.nbytes for tensor in tensors)
    check_free_space(target.absolute(), total + SMALL_FILES, "free some space, or choose another disk")
    with new_directory(target) as output:
        files = stream_shards(output, tensors, max_shard_bytes, on_bytes)
        if record is None:
            _write_configs(found, output)
        else:
            copy_files(source / FOLDER, output, patterns=ORIGINALS)
        copy_files(source, output, patterns=LICENCES)
        flush(output)
    width = config.intermediate_size
    return Converted(
        target=str(target),
        layout="qwen1",
        files=files,
        bytes=total,
        context=config.position.max_length,
        mlp_width=width,
        zero_channels=opened.config.intermediate_size - width,
        has_tokenizer=any(target.glob("*.tiktoken")),
    )


def _check_values(found: _Source) -> None:
    """CheckpointError for weights that are not finite; a warning for zeros, where none have been added."""
    findings = list(value_findings(found.opened.checkpoint, found.opened.layout, whole=False))
    if found.config.intermediate_size == found.opened.config.intermediate_size:
        warn_of(findings, found.directory)
    for finding in findings:
        if finding.num_not_finite and not finding.is_padding:
            raise finding.error()


def _recorded_config(opened: OpenCheckpoint, vocabulary: Vocabulary | None, record: Record) -> ModelConfig:
    """The original's config; CheckpointError where the record does not describe the tensors beside it."""
    folder = opened.checkpoint.directory / FOLDER
    config, gptq = load_config(folder), load_gptq_config(folder)
    ours, bits = opened.config, 32 if gptq is None else gptq.bits
    linears = {module.name for module in opened.layout if module.kind == "linear"}
    named = {*record.biases, *record.v2_zeros, *record.without_g_idx}
    own_vocabulary = load_tokenizer(folder).vocabulary if any(folder.glob("*.tiktoken")) else None
    fits = {
        "model_type": config.family == "qwen",
        **{name: getattr(config, name) == getattr(ours, name) for name in _SAME},
        "rope_theta": ours.position.rope_theta == reach_of(config.position, record.context).rope_theta,
        "mlp_width": config.intermediate_size == record.mlp_width <= ours.intermediate_size,
        "quantization_config": record.mlp_width * bits % 32 == 0 and _same_gptq(gptq, opened.gptq),
        "conversion.json": named <= linears,
        "g_idx": not (record.without_g_idx and (gptq is None or gptq.desc_act)),
        ".tiktoken": vocabulary is None or (own_vocabulary is not None and _same_ids(vocabulary, own_vocabulary)),
    }
    if wrong := [name for name, holds in fits.items() if not holds]:
        raise CheckpointError(folder, f"does not describe the model beside it: {wrong[0]} differs", hint=AGAIN)
    return config


def _same_gptq(one: GptqConfig | None, other: GptqConfig | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(getattr(one, name) == getattr(other, name) for name in _SAME_GPTQ)


def _same_ids(one: Vocabulary, other: Vocabulary) -> bool:
    return one.mergeable_ranks == other.mergeable_ranks and one.special_tokens == other.special_tokens


def _new_form(found: _Source) -> NewForm:
    opened, record = found.opened, found.record
    present = {
        module.name: dtype
        for module in opened.layout
        if module.kind == "linear" and (dtype := bias_dtype(opened, module)) is not None
    }
    layout = layout_of(found.config)
    if record is None:
        return NewForm(layout, present)
    wanted = {**record.biases, **{module.name: "" for module in layout if module.needs_bias}}
    for name in present.keys() - wanted.keys():
        _check_no_bias(opened, opened.layout[name])
    biases = {name: present.get(name, dtype) for name, dtype in wanted.items()}
    return NewForm(layout, biases, frozenset(record.v2_zeros), frozenset(record.without_g_idx))


def _check_no_bias(opened: OpenCheckpoint, module: ModuleSpec) -> None:
    """CheckpointError for a bias that the original does not have."""
    name = module.disk_names("bias")[0]
    if bool(opened.checkpoint.read(name).count_nonzero()):
        reason = "is not zero, but the original checkpoint has no such bias"
        raise CheckpointError(opened.checkpoint.info(name).file, reason, tensor=name, hint=AGAIN)


def _write_configs(found: _Source, output: Path) -> None:
    """Configs and vocabulary of a checkpoint that was never of the first generation."""
    opened, config, vocabulary = found.opened, found.config, found.vocabulary
    gptq = opened.gptq
    if gptq is not None and gptq.sym:
        gptq = replace(gptq, checkpoint_format=None)
    write_json(output / "config.json", _config_json(opened, config, gptq))
    if gptq is not None:
        write_json(output / "quantize_config.json", gptq.to_dict())
    write_json(output / "generation_config.json", _generation_config_json(found))
    if vocabulary is not None:
        vocabulary.save(output / VOCABULARY_FILE)
        content = {"model_max_length": config.position.max_length, "tokenizer_class": "QWenTokenizer"}
        write_json(output / "tokenizer_config.json", content)


def _config_json(opened: OpenCheckpoint, config: ModelConfig, gptq: GptqConfig | None) -> dict[str, Any]:
    length = config.position.max_length
    shape = Shape(
        name="",
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        seq_length=length,
        max_position_embeddings=length,
        rotary_emb_base=0,
        uses_ntk_and_logn=False,
        max_window_size=length,
    )
    optional = (module for module in opened.layout if module.kind == "linear" and not module.name.endswith("qkv"))
    own = {
        "kv_channels": config.head_dim,
        "layer_norm_epsilon": config.rms_norm_eps,
        "no_bias": not any(bias_dtype(opened, module) for module in optional),
        "rotary_emb_base": config.position.rope_theta,
    }
    return config_json(shape, gptq) | own


def _generation_config_json(found: _Source) -> dict[str, Any]:
    """The sampling defaults in the published form; a model whose answers end at <|im_end|> chats."""
    path, config_path = found.directory / "generation_config.json", found.directory / "config.json"
    raw: Mapping[str, Any] = read_json(path) if has_file(path) else {}
    eos = (*parse_eos(raw, path), *parse_eos(read_json(config_path), config_path))
    content = {key: value for key, value in raw.items() if key not in _NOT_PUBLISHED}
    if found.vocabulary is not None:
        is_chat = found.vocabulary.special_tokens[IM_END] in eos
        content["chat_format"] = "chatml" if is_chat else "raw"
        content["eos_token_id"] = content["pad_token_id"] = found.vocabulary.num_ranks
    elif eos:
        content["eos_token_id"] = content["pad_token_id"] = eos[-1]
    return dict(sorted(content.items()))
