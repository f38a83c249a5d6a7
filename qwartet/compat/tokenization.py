"""`AutoTokenizer` and `QWenTokenizer` as the model card uses them, without transformers.

The published defaults hold: special tokens in a text are parsed (`allowed_special="all"`), `skip_special_tokens` drops
every id from <|endoftext|> on, errors are the original's own. Code that handles untrusted text uses
`qwartet.tokenizer` instead, which treats special tokens in a text as plain text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Self

import tiktoken

from qwartet.compat.batch_encoding import NO_LIMIT, BatchEncoding, as_tensors, padded_batch, padded_length
from qwartet.compat.token_roles import ROLES, Role, RoleId, surface_form
from qwartet.compat.tokenizer_files import SETTINGS, read_settings, write_settings
from qwartet.errors import RequestError, SettingError
from qwartet.hub.location import LOCATION_ARGUMENTS, StrPath, locate
from qwartet.models.vocabulary_files import extra_vocabulary
from qwartet.tokenizer.chat_template import conversations_of, prompt_of
from qwartet.tokenizer.tiktoken_tokenizer import VOCABULARY_FILE, TiktokenTokenizer
from qwartet.tokenizer.tokenizer import SpecialSet

# There is only one implementation; `legacy` concerns SentencePiece.
_WITHOUT_EFFECT = ("use_fast", "legacy", "tokenizer_type", "clean_up_tokenization_spaces")


class QWenTokenizer:
    """The published slow tokenizer's interface; `core` is the tokenizer underneath."""

    pad_token, eos_token, bos_token, unk_token = Role(), Role(), Role(), Role()
    pad_token_id, eos_token_id, bos_token_id, unk_token_id = RoleId(), RoleId(), RoleId(), RoleId()
    is_fast = False
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
        truncation_side: str = "right",
        model_max_length: int = NO_LIMIT,
    ) -> None:
        self.core = TiktokenTokenizer.load(vocab_file, extra_vocab_file, errors)
        self.errors = errors
        self.padding_side = _checked_side("padding_side", padding_side)
        self.truncation_side = _checked_side("truncation_side", truncation_side)
        self.model_max_length = model_max_length
        self.name_or_path = str(vocab_file)
        self._roles: dict[str, str | None] = dict.fromkeys(ROLES)
        self.pad_token, self.eos_token = pad_token, eos_token
        self.bos_token, self.unk_token = bos_token, unk_token

    @classmethod
    def from_pretrained(cls, name_or_path: StrPath, **kwargs: Any) -> Self:
        """Tokenizer of a model directory or hub id; arguments override its tokenizer_config.json.

        Takes the original's arguments for its location. `trust_remote_code` and `use_fast` are accepted and ignored:
        there is only one implementation.
        Raises SettingError for an unknown argument, CheckpointError for broken files, ModelNotFoundError.
        """
        settings = {name: value for name, value in kwargs.items() if name not in _WITHOUT_EFFECT}
        known = (*SETTINGS, "extra_vocab_file")
        for name in settings.keys() - {*known, *LOCATION_ARGUMENTS}:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known arguments: {', '.join(known)}"
            raise SettingError(f"from_pretrained has no argument {name!r}; {hint}", param=name)
        directory = locate(name_or_path, settings)
        return cls(
            directory, **({"extra_vocab_file": extra_vocabulary(directory)} | read_settings(directory) | settings)
        )

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
        return_tensors: Literal["pt", "np"] | None = None,
        **settings: Any,
    ) -> Any:
        """Ids of a text, or a tensor [1, T]; raises ValueError if the text contains a disallowed special token.

        `settings` are those of a call: truncation, max_length, padding.
        """
        if not isinstance(text, str):
            raise SettingError(f"encode() takes a text, not {_shown(text)}; call the tokenizer for several")
        settings |= {"allowed_special": allowed_special, "disallowed_special": disallowed_special}
        return self(text, return_tensors=return_tensors, **settings)["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "only_first", "do_not_truncate"] | None = False,
        max_length: int | None = None,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        return_attention_mask: bool | None = None,
        return_token_type_ids: bool | None = None,
        allowed_special: SpecialSet = "all",
        disallowed_special: SpecialSet = (),
        add_special_tokens: bool = True,
        verbose: bool = True,
    ) -> BatchEncoding:
        """input_ids, token_type_ids (zeros) and attention_mask of a text (lists [T]) or several (lists [B][T]).

        With `return_tensors="pt"` all are int64 tensors [B, T]. `add_special_tokens` and `verbose` have no effect:
        this tokenizer adds nothing around a text.
        """
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
            raise SettingError(f"the tokenizer takes a text or a list of texts, not {_shown(text)}")
        rows = [self._ids(row, allowed_special, disallowed_special) for row in texts]
        limit = self.model_max_length if max_length is None else max_length
        if truncation not in (False, None, "do_not_truncate"):
            rows = [self._cut(row, truncation, limit) for row in rows]
        side = _checked_side("padding_side", self.padding_side if padding_side is None else padding_side)
        length = padded_length(rows, padding, limit, pad_to_multiple_of)
        batch = padded_batch(rows, length, self.pad_token_id, side)
        if return_token_type_ids is False:
            del batch["token_type_ids"]
        if return_attention_mask is False:
            del batch["attention_mask"]
        if return_tensors is not None:
            return BatchEncoding(as_tensors(batch, return_tensors))
        return BatchEncoding({key: value[0] for key, value in batch.items()} if isinstance(text, str) else batch)

    def _cut(self, row: list[int], truncation: bool | str, limit: int) -> list[int]:
        if truncation not in (True, "longest_first", "only_first"):
            raise SettingError(f"truncation is {truncation!r}; use True, 'longest_first' or False")
        if limit < 0:
            raise SettingError(f"max_length is {limit}; it must be at least 0")
        if _checked_side("truncation_side", self.truncation_side) == "left":
            return row[max(0, len(row) - limit) :]
        return row[:limit]

    def _ids(self, text: str, allowed_special: SpecialSet, disallowed_special: SpecialSet) -> list[int]:
        try:
            return self.core.encode(text, allowed_special=allowed_special, disallowed_special=disallowed_special)
        except RequestError as error:
            raise ValueError(str(error)) from error

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: Literal["pt", "np"] | None = None,
        return_dict: bool = False,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        tools: Any = None,
        documents: Any = None,
    ) -> Any:
        """Messages [{"role": ..., "content": ...}] in ChatML, or several conversations, as ids or as text.

        The published system prompt is added if the first message has another role, and special tokens in a content
        are plain text, both as in chat(). `return_dict` returns the complete BatchEncoding.
        """
        for name, value in (("chat_template", chat_template), ("tools", tools), ("documents", documents)):
            if value is not None and value != []:
                raise SettingError(f"apply_chat_template does not support {name}; put its text in the contents")
        conversations, is_single = conversations_of(conversation)
        prompts = [prompt_of(self.core, one, add_generation_prompt) for one in conversations]
        if not tokenize:
            return prompts[0].text if is_single else [prompt.text for prompt in prompts]
        limit = self.model_max_length if max_length is None else max_length
        rows = [self._cut(prompt.ids, True, limit) if truncation else prompt.ids for prompt in prompts]
        length = padded_length(rows, padding, limit, None)
        batch = padded_batch(rows, length, self.pad_token_id, _checked_side("padding_side", self.padding_side))
        encoding: dict[str, Any] = dict(batch)
        if return_tensors is not None:
            encoding = as_tensors(batch, return_tensors)
        elif is_single:
            encoding = {key: value[0] for key, value in batch.items()}
        return BatchEncoding(encoding) if return_dict else encoding["input_ids"]

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
        self,
        sequences: Iterable[Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        errors: str | None = None,
    ) -> list[str]:
        """Text of every row of a list or tensor of ids."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens, errors=errors) for row in sequences]

    def convert_tokens_to_string(self, tokens: Iterable[bytes | str]) -> str:
        """Text of tokens: runs of bytes are decoded together, special tokens are kept as they are."""
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
        if isinstance(ids, Integral):
            return self._convert_id_to_token(int(ids))
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
        """Assigned roles and their special tokens."""
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
        """Assign roles to special tokens; returns 0; raises ValueError for one that is not in the vocabulary."""
        for role, token in special_tokens_dict.items():
            if role == "additional_special_tokens":
                self._add_tokens(token, special_tokens=True)
            elif role in ROLES:
                setattr(self, role, token)
            else:
                raise SettingError(f"{role!r} is not a token role; use one of {', '.join(ROLES)}")
        return 0

    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        if not special_tokens and new_tokens:
            raise SettingError("Adding regular tokens is not supported; use extra_vocab_file=")
        for token in new_tokens:
            if surface_form(token) not in self.special_tokens:
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
        """Write everything that `from_pretrained` reads into a directory, created if necessary; returns the paths."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        sides = {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        settings = {"errors": self.errors, "model_max_length": self.model_max_length, **sides}
        files = write_settings(directory, settings, self.special_tokens_map)
        return *files, *self.save_vocabulary(directory)


class AutoTokenizer:
    """Replaces the class of this name that the model card imports from transformers."""

    @staticmethod
    def from_pretrained(name_or_path: StrPath, *, trust_remote_code: bool = False, **kwargs: Any) -> QWenTokenizer:
        """Tokenizer of a model directory or hub id; see `QWenTokenizer.from_pretrained`."""
        return QWenTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code, **kwargs)


def _id_list(ids: Any) -> list[int]:
    if hasattr(ids, "tolist"):  # a tensor or an array
        ids = ids.tolist()
    return [ids] if isinstance(ids, int) else list(ids)


def _checked_side(name: str, side: str) -> str:
    if side not in ("left", "right"):
        raise SettingError(f"{name} is {side!r}; use 'left' or 'right'")
    return side


def _shown(value: object) -> str:
    return f"{value!r:.60}"
