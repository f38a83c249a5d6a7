"""Calibration: the token ids that a model sees while it is quantised, from a file of conversations, text or ids.

    *.json          conversations as for fine-tuning: [{"conversations": [{"from": "user", "value": "..."}, ...]}, ...]
                    each becomes one example in ChatML, with the published system prompt, cut at max_len tokens
    *.safetensors   one integer tensor [examples, tokens], whatever its name
    anything else   text in UTF-8, cut into examples of max_len tokens

Nothing is padded. The published checkpoints were calibrated on conversations; their text was never published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.safetensors_file import SafetensorsFile, read_tensor_infos
from qwartet.errors import CheckpointError, SettingError
from qwartet.models.config import ModelConfig
from qwartet.tokenizer.chatml import Message, training_example
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

TURN_ROLES = ("user", "assistant")


def load_calibration(file: Path, model: Path, *, num_samples: int, max_len: int) -> list[list[int]]:
    """The first num_samples examples of a file, each of at most max_len tokens, in the vocabulary of `model`.

    CheckpointError where the file is not what its name says; VocabularyError when text has to be encoded and the
    directory `model` has no vocabulary.
    """
    if num_samples < 1 or max_len < 1:
        raise SettingError(f"num_samples is {num_samples} and max_len is {max_len}; both must be at least 1")
    if not has_file(file):
        raise CheckpointError(file, "cannot be read (No such file or directory)", hint="check the path")
    if file.suffix == ".safetensors":
        return [example[:max_len] for example in _stored_ids(file)[:num_samples]]
    content = _read_text(file)
    tokenizer = TiktokenTokenizer.load(model)
    if file.suffix == ".json":
        conversations = _parse_conversations(content, file)[:num_samples]
        return [training_example(tokenizer, messages, max_len)[0] for messages in conversations]
    ids = tokenizer.encode(content)
    return [ids[start : start + max_len] for start in range(0, len(ids), max_len)][:num_samples]


def check_calibration(calibration: Sequence[Sequence[int]], config: ModelConfig) -> None:
    """SettingError for examples that the model cannot read, and for too few tokens to calibrate on."""
    longest = config.position.max_length
    for number, example in enumerate(calibration):
        if not 1 <= len(example) <= longest:
            raise SettingError(f"calibration example {number} has {len(example)} tokens; it must have 1 to {longest}")
        if bad := [token for token in example if not 0 <= token < config.vocab_size]:
            bounds = f"0 to {config.vocab_size - 1}"
            raise SettingError(f"calibration example {number} holds the id {bad[0]}; ids of this model are {bounds}")
    num_tokens = sum(map(len, calibration))
    if num_tokens < config.hidden_size:
        # With fewer tokens than inputs every Hessian is singular, and the damping alone would choose the codes.
        raise SettingError(
            f"the calibration has {num_tokens} tokens in {len(calibration)} examples; this model needs at least "
            f"{config.hidden_size} (its hidden_size), and is served well by a hundred times as many"
        )


def _stored_ids(file: Path) -> list[list[int]]:
    infos = list(read_tensor_infos(file).values())
    if len(infos) != 1 or len(infos[0].shape) != 2 or infos[0].dtype not in ("I32", "I64"):
        found = ", ".join(f"{info.name} {info.dtype} {list(info.shape)}" for info in infos[:10])
        raise CheckpointError(file, f"must hold one tensor [examples, tokens] of I32 or I64; it holds {found}")
    return SafetensorsFile(file).read(infos[0]).tolist()


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(file, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(file, f"is not UTF-8 text ({error})") from None


def _parse_conversations(content: str, file: Path) -> list[list[Message]]:
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(file, f"is not valid JSON ({error})") from None
    if not isinstance(entries, list):
        raise CheckpointError(file, f"holds a JSON {type(entries).__name__}; it must be a list of conversations")
    return [_parse_conversation(entry, f"entry {number}", file) for number, entry in enumerate(entries)]


def _parse_conversation(entry: Any, where: str, file: Path) -> list[Message]:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list) or not turns:
        raise CheckpointError(file, f'{where} has no list "conversations"')
    messages = []
    for turn in turns:
        role, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if role not in TURN_ROLES or not isinstance(value, str):
            reason = f'{where}: a turn is {{"from": "user" or "assistant", "value": text}}, not {str(turn)[:80]}'
            raise CheckpointError(file, reason)
        messages.append(Message(role, value))
    return messages
