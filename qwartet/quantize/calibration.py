"""Calibration data: the token ids on which a model is quantised, from a file of conversations, text or ids.

    JSON or JSON lines   conversations or texts, in the forms of calibration_records.py; each is one example, cut at
                         max_len; conversations are in ChatML, with the published system prompt
    *.safetensors        one integer tensor [examples, tokens], under any name
    anything else        text in UTF-8, cut into examples of max_len tokens
    builtin              builtin_records.py: a small mixed set

Nothing is padded. The published checkpoints were calibrated on conversations; their text was never published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwartet.checkpoint.directory import cannot_read, has_file
from qwartet.checkpoint.safetensors_file import SafetensorsFile, read_tensor_infos
from qwartet.errors import CheckpointError, SettingError, VocabularyError
from qwartet.files import decode_text
from qwartet.models.config import ModelConfig
from qwartet.models.families import FAMILIES
from qwartet.quantize.builtin_records import builtin_records
from qwartet.quantize.calibration_records import Record, parse_records
from qwartet.tokenizer.chatml import training_example
from qwartet.tokenizer.tokenizer import Tokenizer

BUILTIN = "builtin"
"""In place of a file: the built-in set."""

# Files that would be misread as plain text, and what to do with them instead.
_TABLE = "pandas.read_{kind}('{{file}}').to_json('{{stem}}.jsonl', orient='records', lines=True)"
_NEXT_STEPS = {
    ".gz": "unpack it: gunzip -k {file}",
    ".bz2": "unpack it: bunzip2 -k {file}",
    ".xz": "unpack it: unxz -k {file}",
    ".zst": "unpack it: unzstd {file}",
    ".zip": "unpack it: unzip {file}",
    ".tar": "unpack it: tar xf {file}",
    ".tgz": "unpack it: tar xf {file}",
    ".parquet": "convert it in Python: " + _TABLE.format(kind="parquet"),
    ".arrow": "convert it in Python: " + _TABLE.format(kind="feather"),
    ".feather": "convert it in Python: " + _TABLE.format(kind="feather"),
    ".csv": "convert it in Python: " + _TABLE.format(kind="csv"),
    ".tsv": "convert it in Python: " + _TABLE.format(kind="table"),
    ".xlsx": "convert it in Python: " + _TABLE.format(kind="excel"),
    **dict.fromkeys((".yaml", ".yml", ".xml", ".toml"), "write it as JSON lines, or as plain text in a .txt file"),
    **dict.fromkeys((".npy", ".npz", ".pt", ".bin", ".pkl"), "write ids as one tensor of a .safetensors file"),
}
_MARKS = {
    b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip",
    b"PAR1": ".parquet", b"ARROW1": ".arrow",
}  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """The content of a calibration file, its form checked; a vocabulary turns it into tokens."""

    ids: list[list[int]] | None = None
    records: list[Record] | None = None
    text: str = ""

    def examples(self, model: Path, *, num_samples: int, max_len: int) -> list[list[int]]:
        """The first num_samples examples, each of at most max_len tokens, in the vocabulary of the directory `model`.

        VocabularyError when text has to be encoded and there is no vocabulary, or a broken one.
        """
        if self.ids is not None:
            return [example[:max_len] for example in self.ids[:num_samples]]
        tokenizer = _load_tokenizer(model)
        if self.records is not None:
            return [
                tokenizer.encode(record)[:max_len]
                if isinstance(record, str)
                else training_example(tokenizer, record, max_len)[0]
                for record in self.records[:num_samples]
            ]
        ids = tokenizer.encode(self.text)
        return [ids[start : start + max_len] for start in range(0, len(ids), max_len)][:num_samples]


def _load_tokenizer(model: Path) -> Tokenizer:
    """The tokenizer of a directory, of whichever family; VocabularyError where there is none."""
    reason = "no vocabulary to encode the calibration text"
    for family in FAMILIES.values():
        if family.has_tokenizer(model):
            if (tokenizer := family.load_tokenizer(model)) is not None:
                return tokenizer
            reason = "its tokenizer is not supported, so the calibration text cannot be encoded"
    hint = "download it with the model, or calibrate on token ids (.safetensors)"
    raise VocabularyError(model, reason, hint=hint)


def builtin_calibration() -> Calibration:
    """The built-in set."""
    return Calibration(records=builtin_records())


def read_calibration(file: Path) -> Calibration:
    """Reads a file; CheckpointError where it is unreadable, empty or in a form that is not supported."""
    if not has_file(file):
        raise CheckpointError(file, "does not exist", hint="check the path")
    if file.suffix == ".safetensors":
        return Calibration(ids=_stored_ids(file))
    content = _read_text(file)
    records = parse_records(content, file) if content.strip() else []
    if records == []:
        raise CheckpointError(file, "holds no examples", hint="choose a file with conversations or text")
    return Calibration(records=records, text=content)


def load_calibration(file: Path, model: Path, *, num_samples: int, max_len: int) -> list[list[int]]:
    """The examples of a file in the vocabulary of `model`; raises what the steps raise."""
    check_counts(num_samples, max_len)
    return read_calibration(file).examples(model, num_samples=num_samples, max_len=max_len)


def check_counts(num_samples: int, max_len: int) -> None:
    """SettingError for counts below 1."""
    if num_samples < 1 or max_len < 1:
        raise SettingError(f"num_samples is {num_samples} and max_len is {max_len}; both must be at least 1")


def check_calibration(calibration: Sequence[Sequence[int]], config: ModelConfig) -> None:
    """SettingError for examples that the model cannot process, and for too few tokens to calibrate on."""
    longest = config.position.max_length
    for number, example in enumerate(calibration):
        if not 1 <= len(example) <= longest:
            raise SettingError(f"calibration example {number} has {len(example)} tokens; it must have 1 to {longest}")
        if bad := [token for token in example if not 0 <= token < config.vocab_size]:
            bounds = f"0 to {config.vocab_size - 1}"
            raise SettingError(f"calibration example {number} holds the id {bad[0]}; this model's ids are {bounds}")
    num_tokens = sum(map(len, calibration))
    if num_tokens < config.hidden_size:
        # With fewer tokens than inputs every Hessian is singular, and damping alone would choose the codes.
        raise SettingError(
            f"the calibration has {num_tokens} tokens in {len(calibration)} examples; this model needs at least "
            f"{config.hidden_size} (its hidden_size), and about 200,000 tokens are recommended"
        )


def _stored_ids(file: Path) -> list[list[int]]:
    infos = list(read_tensor_infos(file).values())
    if len(infos) != 1 or len(infos[0].shape) != 2 or infos[0].dtype not in ("I32", "I64"):
        found = ", ".join(f"{info.name} {info.dtype} {list(info.shape)}" for info in infos[:10])
        hint = "write one tensor [examples, tokens] of I32 or I64"
        raise CheckpointError(file, f"must hold one tensor of token ids; it holds {found or 'none'}", hint=hint)
    return SafetensorsFile(file).read(infos[0]).tolist()


def _read_text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise cannot_read(file, error) from None
    kind = next((kind for mark, kind in _MARKS.items() if content.startswith(mark)), file.suffix.lower())
    if kind in _NEXT_STEPS:
        hint = _NEXT_STEPS[kind].format(file=file.name, stem=file.stem)
        raise CheckpointError(file, f"is a {kind} file, which is not supported", hint=hint)
    try:
        return decode_text(content)
    except ValueError as error:
        raise CheckpointError(file, str(error)) from None
