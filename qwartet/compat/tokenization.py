"""`AutoTokenizer` and `QWenTokenizer` as the model card uses them, without transformers.

The published defaults hold: special tokens in a text are parsed (`allowed_special="all"`), `skip_special_tokens` drops
every id from <|endoftext|> on, errors are the original's own. Code that takes text from strangers uses
`qwartet.tokenizer` instead, which keeps special tokens in a text plain.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import tiktoken

from qwartet.checkpoint.directory import has_file
from qwartet.errors import CheckpointError, RequestError, SettingError
from qwartet.tokenizer.tiktoken_tokenizer import ERROR_HANDLERS, VOCABULARY_FILE, TiktokenTokenizer
from qwartet.tokenizer.tokenizer import SpecialSet
from qwartet.tokenizer.vocabulary import ENDOFTEXT, SPECIAL_TOKENS, StrPath

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
NO_LIMIT = int(1e30)  # transformers' word for "the tokenizer does not know"

_ROLES = ("pad_token", "eos_token", "bos_token", "unk_token")
_SETTINGS = (*_ROLES, "padding_side", "model_max_length", "errors")
_UNSUPPORTED = {
    "cache_dir": "set the environment variable HF_HUB_CACHE",
    "revision": "download that revision (`hf download NAME --revision ...`) and give its directory",
}


class BatchEncoding(dict[str, Any]):
    """What a tokenizer call returns: a dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> Self:
        """Move all tensors to a device, in place."""
        for key, value in self.items():
            if hasattr(value, "to"):
                self[key] = value.to(device)
        return self


class _Role:
    """One of the roles that a special token can have; the stored value is its text or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: QWenTokenizer | None, owner: type | None = None) -> Any:
        return self if tokenizer is None else tokenizer._roles[self.name]

    def __set__(self, tokenizer: QWenTokenizer, token: Any) -> None:
        if token is not None:
            tokenizer._add_tokens([token], special_tokens=True)
        tokenizer._roles[self.name] = None if token is None else _surface_form(token)


class _RoleId:
    """The id of the token that has a role."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.role = name.removesuffix("_id")

    def __get__(self, tokenizer: QWenTokenizer | None, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._roles[self.role]
        return None if token is None else tokenizer.special_tokens[token]

    def __set__(self, tokenizer: QWenTokenizer, token_id: int | None) -> None:
        setattr(tokenizer, self.role, None if token_id is None else tokenizer.convert_ids_to_tokens(token_id))


class QWenTokenizer:
    """The published slow tokenizer's interface; `core` is the tokenizer underneath."""

    pad_token, eos_token, bos_token, unk_token = _Role(), _Role(), _Role(), _Role()
    pad_token_id, eos_token_id, bos_token_id, unk_token_id = _RoleId(), _RoleId(), _RoleId(), _RoleId()
    model_input_names = ("input_ids", "token_type_ids", "attention_mask")

    def __init__(
        self,
        vocab_file: StrPath,
        errors: str = "replace",
        extra_vocab_file: StrPath | None = None,
        *,
        pad_token: Any = None,
        eos_token: Any = None,
        bos_token: Any = None,
        unk_token: Any = None,
        padding_side: str = "right",
        model_max_length: int = NO_LIMIT,
    ) -> None:
        self.core = TiktokenTokenizer.load(vocab_file, extra_vocab_file, errors)
        self.errors = errors
        self.padding_side = _checked_side(padding_side)
        self.model_max_length = model_max_length
        self._roles: dict[str, str | None] = dict.fromkeys(_ROLES)
        self.pad_token, self.eos_token = pad_token, eos_token
        self.bos_token, self.unk_token = bos_token, unk_token

    @classmethod
    def from_pretrained(cls, name_or_path: StrPath, *, trust_remote_code: bool = False, **kwargs: Any) -> Self:
        """Tokenizer of a model directory or hub id; arguments win over its tokenizer_config.json.

        `trust_remote_code` and `use_fast` are accepted and never used: there is one implementation, and it is here.
        Raises SettingError for an unknown argument, CheckpointError for broken files, ModelNotFoundError.
        """
        kwargs.pop("use_fast", None)
        for name in kwargs.keys() - {*_SETTINGS, "extra_vocab_file"}:
            near = difflib.get_close_matches(name, [*_SETTINGS, "extra_vocab_file"], n=1)
            hint = _UNSUPPORTED.get(name) or (f"did you mean {near[0]!r}?" if near else "leave it out")
            raise SettingError(f"from_pretrained does not know the argument {name!r}; {hint}")
        directory = Path(name_or_path)
        if not directory.is_dir():
            from qwartet.hub.resolve import resolve

            directory = Path(resolve(os.fspath(name_or_path)))
        return cls(directory, **(_read_config(directory) | kwargs))

    # Text to ids

    def tokenize(
        self, text: str, allowed_special: SpecialSet = "all", disallowed_special: SpecialSet = ()
    ) -> list[bytes | str]:
        """Tokens of a text: bytes, or str for a special token."""
        ids = self._ids(text, allowed_special, disallowed_special)
        return [self._convert_id_to_token(token_id) for token_id in ids]

    def encode(
        self,
        text: str,
        allowed_special: SpecialSet = "all",
        disallowed_special: SpecialSet = (),
        *,
        add_special_tokens: bool = True,
        return_tensors: Literal["pt"] | None = None,
    ) -> Any:
        """Ids of a text, or a tensor [1, T]; raises ValueError where the text holds a disallowed special token.

        `add_special_tokens` has no effect: this tokenizer puts nothing round a text.
        """
        ids = self._ids(text, allowed_special, disallowed_special)
        return ids if return_tensors is None else _tensors({"ids": [ids]}, return_tensors)["ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "only_first", "do_not_truncate"] = False,
        max_length: int | None = None,
        padding_side: str | None = None,
        return_tensors: Literal["pt"] | None = None,
        allowed_special: SpecialSet = "all",
        disallowed_special: SpecialSet = (),
        add_special_tokens: bool = True,
    ) -> BatchEncoding:
        """input_ids, token_type_ids (zeros) and attention_mask of a text (lists [T]) or several (lists [B][T]).

        With `return_tensors="pt"` all are int64 tensors [B, T]. `add_special_tokens` has no effect.
        """
        texts = [text] if isinstance(text, str) else text
        rows = [self._ids(row, allowed_special, disallowed_special) for row in texts]
        limit = self.model_max_length if max_length is None else max_length
        if truncation not in (False, "do_not_truncate"):
            rows = [row[:limit] for row in rows]
        side = self.padding_side if padding_side is None else _checked_side(padding_side)
        batch = self._padded(rows, self._padded_length(rows, padding, limit), side)
        if return_tensors is not None:
            return BatchEncoding(_tensors(batch, return_tensors))
        return BatchEncoding({key: value[0] for key, value in batch.items()} if isinstance(text, str) else batch)

    def _ids(self, text: str, allowed_special: SpecialSet, disallowed_special: SpecialSet) -> list[int]:
        try:
            return self.core.encode(text, allowed_special=allowed_special, disallowed_special=disallowed_special)
        except RequestError as error:
            raise ValueError(str(error)) from error

    def _padded_length(self, rows: list[list[int]], padding: bool | str, limit: int) -> int:
        if padding in (False, "do_not_pad"):
            return 0
        if padding == "max_length":
            if limit >= NO_LIMIT:
                raise SettingError("padding to max_length without a length; give max_length=")
            return limit
        if padding not in (True, "longest"):
            raise SettingError(f"padding is {padding!r}; use True, 'longest', 'max_length' or False")
        return max(map(len, rows), default=0)

    def _padded(self, rows: list[list[int]], length: int, side: str) -> dict[str, list[list[int]]]:
        batch: dict[str, list[list[int]]] = {name: [] for name in self.model_input_names}
        for row in rows:
            num_pads = max(0, length - len(row))
            if length and self.pad_token_id is None:
                raise SettingError("there is no padding token; load with pad_token='<|extra_0|>'")
            pads, mask = [self.pad_token_id or 0] * num_pads, [1] * len(row)
            left = side == "left"
            batch["input_ids"].append(pads + row if left else row + pads)
            batch["token_type_ids"].append([0] * (num_pads + len(row)))
            batch["attention_mask"].append([0] * num_pads + mask if left else mask + [0] * num_pads)
        return batch

    # Ids to text

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        errors: str | None = None,
    ) -> str:
        """Text of an id, a list or a tensor of ids; raises KeyError or OverflowError for an id of no token.

        `clean_up_tokenization_spaces` has no effect, as published.
        """
        ids = _id_list(token_ids)
        if skip_special_tokens:
            ids = [token_id for token_id in ids if token_id < self.eod_id]
        return self.tokenizer.decode(ids, errors=errors or self.errors)

    def batch_decode(
        self, sequences: Iterable[Any], skip_special_tokens: bool = False, errors: str | None = None
    ) -> list[str]:
        """Text of every row of a list or tensor of ids."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens, errors=errors) for row in sequences]

    def convert_tokens_to_string(self, tokens: Iterable[bytes | str]) -> str:
        """Text of tokens: runs of bytes are decoded together, special tokens stand as they are."""
        text, run = "", b""
        for token in tokens:
            if isinstance(token, bytes):
                run += token
            elif isinstance(token, str):
                text, run = text + run.decode("utf-8", self.errors) + token, b""
            else:
                raise TypeError(f"a token is bytes or str, not {type(token).__name__}")
        return text + run.decode("utf-8", self.errors)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Id of a token, or ids of a list of tokens; None for an unknown one."""
        if isinstance(tokens, str):
            return self.special_tokens.get(tokens)
        if isinstance(tokens, bytes):
            return self.mergeable_ranks.get(tokens)
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Token of an id, or tokens of ids (without those that have a role); raises ValueError for an unknown id."""
        if isinstance(ids, int):
            return self._convert_id_to_token(ids)
        skipped = self.all_special_ids if skip_special_tokens else []
        return [self._convert_id_to_token(token_id) for token_id in _id_list(ids) if token_id not in skipped]

    def _convert_id_to_token(self, token_id: int) -> bytes | str:
        try:
            token = self.core.decode_bytes(token_id)
        except RequestError as error:
            raise ValueError("unknown ids") from error
        return token.decode("ascii") if self.core.is_special(token_id) else token

    # Vocabulary

    @property
    def tokenizer(self) -> tiktoken.Encoding:
        """The tiktoken encoding."""
        return self.core.encoding

    @property
    def special_tokens(self) -> dict[str, int]:
        """All 208 special tokens and their ids."""
        return self.core.special_tokens

    @property
    def mergeable_ranks(self) -> dict[bytes, int]:
        """All other tokens and their ids."""
        return self.core.mergeable_ranks

    @property
    def eod_id(self) -> int:
        """Id of <|endoftext|>."""
        return self.core.eod_id

    @property
    def im_start_id(self) -> int:
        """Id of <|im_start|>."""
        return self.core.im_start_id

    @property
    def im_end_id(self) -> int:
        """Id of <|im_end|>."""
        return self.core.im_end_id

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""
        return self.core.num_tokens

    def __len__(self) -> int:
        return self.core.num_tokens

    def get_vocab(self) -> dict[bytes, int]:
        """Tokens and their ids, without the special tokens, as published."""
        return dict(self.mergeable_ranks)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Roles that are taken, and by which special token."""
        return {role: token for role, token in self._roles.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """Special tokens that have a role."""
        return list(dict.fromkeys(self.special_tokens_map.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens that have a role."""
        return [self.special_tokens[token] for token in self.all_special_tokens]

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Number of tokens added, which is 0: the vocabulary is fixed, and a new token is a ValueError."""
        return self._add_tokens(new_tokens if isinstance(new_tokens, list | tuple) else [new_tokens], special_tokens)

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Give roles to special tokens; returns 0; raises ValueError for one that is not in the vocabulary."""
        for role, token in special_tokens_dict.items():
            if role == "additional_special_tokens":
                self._add_tokens(token, special_tokens=True)
            elif role in _ROLES:
                setattr(self, role, token)
            else:
                raise SettingError(f"{role!r} is no role of a token; use one of {', '.join(_ROLES)}")
        return 0

    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        if not special_tokens and new_tokens:
            raise SettingError("Adding regular tokens is not supported; use extra_vocab_file=")
        for token in new_tokens:
            if _surface_form(token) not in self.special_tokens:
                raise SettingError(
                    f"Adding unknown special tokens is not supported: {token!r}; "
                    "use <|endoftext|>, <|im_start|>, <|im_end|> or <|extra_0|> to <|extra_204|>"
                )
        return 0

    # Files

    def save_vocabulary(self, save_directory: StrPath) -> tuple[str]:
        """Write qwen.tiktoken, extra vocabulary included, into a directory; returns its path."""
        path = Path(save_directory) / VOCABULARY_FILE
        self.core.vocabulary.save(path)
        return (str(path),)

    def save_pretrained(self, save_directory: StrPath) -> tuple[str, ...]:
        """Write all that `from_pretrained` reads into a directory, made if need be; returns the paths."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "errors": self.errors,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "tokenizer_class": "QWenTokenizer",
            **self.special_tokens_map,
        }
        for name, content in ((CONFIG_FILE, config), (SPECIAL_TOKENS_FILE, self.special_tokens_map)):
            (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return str(directory / CONFIG_FILE), str(directory / SPECIAL_TOKENS_FILE), *self.save_vocabulary(directory)


class AutoTokenizer:
    """Stands where the model card imports transformers' class of this name."""

    @staticmethod
    def from_pretrained(name_or_path: StrPath, *, trust_remote_code: bool = False, **kwargs: Any) -> QWenTokenizer:
        """Tokenizer of a model directory or hub id; see `QWenTokenizer.from_pretrained`."""
        return QWenTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code, **kwargs)


def _read_config(directory: Path) -> dict[str, Any]:
    """Settings of a tokenizer_config.json that mean something to us; none if there is no such file."""
    path = directory / CONFIG_FILE
    if not has_file(path):
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"not a JSON file ({error})", hint="fetch it again, or remove it") from error
    if not isinstance(config, dict):
        raise CheckpointError(path, f"holds a {type(config).__name__}, not an object", hint="fetch it again")
    settings = {key: config[key] for key in _SETTINGS if config.get(key) is not None}
    limit = settings.get("model_max_length", NO_LIMIT)
    checks = {
        "model_max_length": isinstance(limit, int) and limit >= 1,
        "padding_side": settings.get("padding_side", "right") in ("left", "right"),
        "errors": settings.get("errors", "replace") in ERROR_HANDLERS,
        **{role: _surface_form(settings.get(role, ENDOFTEXT)) in SPECIAL_TOKENS for role in _ROLES},
    }
    for key, is_good in checks.items():
        if not is_good:
            raise CheckpointError(path, f"{key} is {settings[key]!r}", hint="correct it, or remove the line")
    return settings


def _surface_form(token: Any) -> str:
    """Text of a token given as text, as AddedToken, or as the dict that a saved one is."""
    if isinstance(token, Mapping):
        return str(token.get("content"))
    return str(getattr(token, "content", token))


def _id_list(ids: Any) -> list[int]:
    if hasattr(ids, "tolist"):  # a tensor or an array
        ids = ids.tolist()
    return [ids] if isinstance(ids, int) else list(ids)


def _tensors(batch: Mapping[str, list[list[int]]], return_tensors: str) -> dict[str, Any]:
    if return_tensors != "pt":
        raise SettingError(f"return_tensors is {return_tensors!r}; use 'pt' or None")
    import torch

    for rows in batch.values():
        if len(set(map(len, rows))) > 1:
            raise SettingError("the texts differ in length; use padding=True (and a pad_token), or one text at a time")
    return {key: torch.tensor(rows, dtype=torch.int64) for key, rows in batch.items()}


def _checked_side(side: str) -> str:
    if side not in ("left", "right"):
        raise SettingError(f"padding_side is {side!r}; use 'left' or 'right'")
    return side
