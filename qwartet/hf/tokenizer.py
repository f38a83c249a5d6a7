"""QWenTokenizer: the published slow tokenizer in transformers.

Surface and behaviour are the published ones: special tokens in a text are parsed unless allowed_special says otherwise,
tokens are bytes, skip_special_tokens drops every id from <|endoftext|> on, errors are the original's. Conversations are
the exception: apply_chat_template inserts the markers as ids, so a content cannot open or close a turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer
from transformers.utils import cached_file

from qwartet.errors import CheckpointError, QwartetError, RequestError, SettingError, VocabularyError
from qwartet.hf.rust_tokenizer import decoding_tokenizer
from qwartet.tokenizer.chat_template import conversations_of, prompt_of
from qwartet.tokenizer.chatml import CHAT_TEMPLATE, DEFAULT_SYSTEM, Message, build_prompt
from qwartet.tokenizer.tiktoken_tokenizer import VOCABULARY_FILE, TiktokenTokenizer
from qwartet.tokenizer.tokenizer import SpecialSet
from qwartet.tokenizer.vocabulary import ENDOFTEXT

_LOCATION = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")
# Of a saved tokenizer, or of its code: the vocabulary and its ids are fixed.
_IGNORED = ("auto_map", "added_tokens_decoder", "tokenizer_file", "added_tokens_file", "special_tokens_map_file")


class QWenTokenizer(PreTrainedTokenizer):
    """The tokenizer of all first-generation models; `core` is Qwartet's own underneath.

    eos_token is <|endoftext|> unless set, which many tools need; the other roles are unset, as published.
    """

    vocab_files_names = {"vocab_file": VOCABULARY_FILE}  # noqa: RUF012  transformers' own form
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self, vocab_file: Any = None, errors: str = "replace", extra_vocab_file: Any = None, **settings: Any
    ) -> None:
        """`extra_vocab_file`: a name in the directory of `vocab_file`, or a Path to any file.

        VocabularyError for a broken file, SettingError for a special token that is not in the vocabulary.
        """
        if vocab_file is None:
            place = settings.get("name_or_path") or "."
            raise VocabularyError(place, f"holds no {VOCABULARY_FILE}", hint="copy it into the directory")
        self.core = TiktokenTokenizer.load(vocab_file, _extra_file(extra_vocab_file, Path(vocab_file)), errors)
        self.errors = errors
        sides = {"padding_side": "right", "truncation_side": "right"}  # given to transformers, so that it saves them
        settings = {"eos_token": ENDOFTEXT, "chat_template": CHAT_TEMPLATE, **sides, **settings}
        settings = {name: value for name, value in settings.items() if name not in _IGNORED}
        if errors != "replace":
            settings["errors"] = errors  # saved
        super().__init__(token_type_ids_pattern="all_zeros", special_tokens_pattern="none", **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *inputs: Any, **arguments: Any) -> Any:
        """As in transformers; `extra_vocab_file` is a path, as published."""
        if arguments.get("extra_vocab_file") is not None:  # unlike the name that a checkpoint's file may hold
            arguments["extra_vocab_file"] = Path(arguments["extra_vocab_file"])
        if arguments.get("vocab_file") is None and not Path(pretrained_model_name_or_path).is_file():
            # Given, so that a checkpoint's file cannot name another one.
            place = {key: arguments[key] for key in _LOCATION if arguments.get(key) is not None}
            arguments["vocab_file"] = cached_file(
                str(pretrained_model_name_or_path),
                VOCABULARY_FILE,
                _raise_exceptions_for_missing_entries=False,
                **place,
            )
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *inputs, **arguments)
        except ImportError as error:  # some versions demand protobuf when the constructor raises anything
            if isinstance(error.__context__, QwartetError):
                raise error.__context__ from None
            raise

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoTokenizer") -> None:
        """Nothing: a saved tokenizer comes with no code."""

    # Text to ids

    def tokenize(
        self,
        text: str,
        allowed_special: SpecialSet = "all",
        disallowed_special: SpecialSet = (),
        split_special_tokens: bool | None = None,
        **others: Any,
    ) -> list[bytes | str]:
        """Tokens of a text: bytes, or str for a special token; ValueError if it contains a disallowed one.

        `split_special_tokens` is transformers' way to say allowed_special=().
        """
        splits = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        allowed = () if splits else allowed_special
        ids = self.core.encode(text, allowed_special=allowed, disallowed_special=disallowed_special)
        return [self._convert_id_to_token(token_id) for token_id in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Id of a token, or ids of a list of tokens; None for an unknown one."""
        if tokens is None:
            return None
        if isinstance(tokens, str):
            return self.special_tokens.get(tokens)
        if isinstance(tokens, bytes):
            return self.mergeable_ranks.get(tokens)
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def _convert_token_to_id(self, token: bytes | str) -> int:
        found: int | None = self.convert_tokens_to_ids(token)
        if found is None:
            raise ValueError("unknown token")
        return found

    # Ids to text

    def _decode(
        self, token_ids: Any, skip_special_tokens: bool = False, errors: str | None = None, **others: Any
    ) -> str:
        """Text of an id or of ids; KeyError or OverflowError for an id of no token, as published."""
        ids: list[Any] = [token_ids] if isinstance(token_ids, Integral) else list(token_ids)
        if skip_special_tokens:
            ids = [token_id for token_id in ids if token_id < self.eod_id]
        return self.core.encoding.decode(ids, errors=errors or self.errors)

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

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Token of an id, or tokens of ids (without those that have a role); ValueError for an unknown id."""
        if isinstance(ids, Integral):
            return self._convert_id_to_token(int(ids))
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._convert_id_to_token(int(token_id)) for token_id in ids if int(token_id) not in skipped]

    def _convert_id_to_token(self, token_id: int) -> bytes | str:
        try:
            token = self.core.decode_bytes(token_id)
        except RequestError as error:
            raise ValueError("unknown ids") from error
        return token.decode("ascii") if self.core.is_special(token_id) else token

    # Conversations

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **arguments: Any,
    ) -> Any:
        """Messages in ChatML, or several conversations, as ids or as text; arguments as in transformers.

        Special tokens in a content are plain text, unless a template other than the published format is set or given:
        then transformers renders it. SettingError for tools and documents.
        """
        if chat_template is not None or self.chat_template != CHAT_TEMPLATE:
            return super().apply_chat_template(
                conversation, tools=tools, documents=documents, chat_template=chat_template,
                add_generation_prompt=add_generation_prompt, continue_final_message=continue_final_message,
                tokenize=tokenize, **arguments,
            )  # fmt: skip
        for name, value in (("tools", tools), ("documents", documents)):
            if value:
                raise SettingError(f"apply_chat_template does not support {name}; put its text in the contents")
        if arguments.pop("return_assistant_tokens_mask", False):
            raise SettingError("return_assistant_tokens_mask is not supported; leave it out")
        if continue_final_message and add_generation_prompt:
            raise SettingError("continue_final_message continues an answer, add_generation_prompt begins one; pass one")
        given, is_single = conversations_of(_plain(conversation))
        prompts = [self._prompt(one, add_generation_prompt, continue_final_message) for one in given]
        if not tokenize:
            texts = [text for text, _ids in prompts]
            return texts[0] if is_single else texts
        return self._encoded([ids for _text, ids in prompts], is_single, arguments)

    def _prompt(self, messages: list[Message], begins_answer: bool, continues: bool) -> tuple[str, list[int]]:
        start = ""
        if continues:
            if messages[-1].role != "assistant":
                raise SettingError("continue_final_message needs a last message of the assistant")
            start, messages = messages[-1].content, messages[:-1] or [Message("system", DEFAULT_SYSTEM)]
        opens = begins_answer or continues
        text = prompt_of(self.core, messages, opens).text
        return text + start if opens else text.removesuffix("\n"), build_prompt(
            self.core, messages, opens, answer_start=start
        )

    def _encoded(self, rows: list[list[int]], is_single: bool, arguments: dict[str, Any]) -> Any:
        """Rows of ids as transformers' tokenizers return them."""
        arguments |= arguments.pop("tokenizer_kwargs", None) or {}
        returns_dict = arguments.pop("return_dict", True)
        known = ("padding", "truncation", "max_length", "return_tensors", "pad_to_multiple_of", "padding_side")
        settings = {name: value for name, value in arguments.items() if name in known}
        # transformers takes lists of ids in place of texts, and a list of one row for a batch.
        prepared = [self.prepare_for_model(row, add_special_tokens=False, **_of_one(settings)) for row in rows]
        if is_single and settings.get("return_tensors") is None and not settings.get("padding"):
            encoding: Any = prepared[0]
        else:
            padding = {name: settings[name] for name in settings if name not in ("truncation", "return_tensors")}
            encoding = self.pad([dict(row) for row in prepared], **{"padding": False, **padding})
            if settings.get("return_tensors") is not None:
                encoding = encoding.convert_to_tensors(settings["return_tensors"])
        return encoding if returns_dict else encoding["input_ids"]

    # Vocabulary

    @property
    def tokenizer(self) -> PublishedEncoding:
        """The tiktoken encoding."""
        return PublishedEncoding(self)

    @cached_property
    def _tokenizer(self) -> Any:
        """The vocabulary for tools that decode with the library tokenizers."""
        return decoding_tokenizer(self.core)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """All 208 special tokens and their ids."""
        return self.core.special_tokens

    @property
    def mergeable_ranks(self) -> Mapping[bytes, int]:
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

    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        """0: the vocabulary is fixed, and a new token is a ValueError, as published."""
        if not special_tokens and new_tokens:
            raise SettingError("Adding regular tokens is not supported; use extra_vocab_file=")
        for token in new_tokens:
            self._check_special(token)
        return 0

    def _check_special(self, token: Any) -> None:
        if str(token) not in self.special_tokens:
            raise SettingError(
                f"Adding unknown special tokens is not supported: {str(token)!r:.60}; "
                "use <|endoftext|>, <|im_start|>, <|im_end|> or <|extra_0|> to <|extra_204|>"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.SPECIAL_TOKENS_ATTRIBUTES and value is not None:
            self._check_special(value)
        super().__setattr__(name, value)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes qwen.tiktoken, extra vocabulary included, into a directory; returns its path."""
        path = Path(save_directory) / VOCABULARY_FILE
        self.core.vocabulary.save(path)
        return (str(path),)


class PublishedEncoding:
    """The attribute `tokenizer` of the published class: its tiktoken encoding.

    Tools of transformers take an attribute of this name for a tokenizer of theirs, which a processor would have there;
    what an encoding lacks is therefore the tokenizer's own.
    """

    def __init__(self, owner: QWenTokenizer) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        encoding = self._owner.core.encoding
        is_of_encoding = hasattr(encoding, name) and not name.startswith("_")
        return getattr(encoding if is_of_encoding else self._owner, name)

    def __call__(self, *texts: Any, **arguments: Any) -> Any:
        """As the tokenizer."""
        return self._owner(*texts, **arguments)

    def decode(self, tokens: Any, errors: str = "replace", **arguments: Any) -> Any:
        """As the encoding, or with arguments that only the tokenizer has, as that."""
        if arguments:
            return self._owner.decode(tokens, errors=errors, **arguments)
        return self._owner.core.encoding.decode(tokens, errors=errors)


def _extra_file(given: Any, vocabulary: Path) -> Path | None:
    """The extra vocabulary: a Path as it is; a name, which a checkpoint's file may hold, beside the vocabulary."""
    if given is None or isinstance(given, Path):
        return given
    file = vocabulary.parent / Path(str(given)).name
    if not file.is_file():
        reason = f"extra_vocab_file is {given!r:.80}, but {file.name:.80} is not in the directory"
        raise CheckpointError(vocabulary.parent, reason, hint="copy it there, or pass a pathlib.Path")
    return file


def _of_one(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that concern a row alone: how it is cut."""
    return {name: settings[name] for name in ("truncation", "max_length") if name in settings}


def _plain(conversation: Any) -> Any:
    """Conversations whose contents are strings: text parts, as OpenAI's clients send them, are joined."""
    if hasattr(conversation, "messages"):
        return _plain(conversation.messages)
    if isinstance(conversation, list | tuple):
        return [_plain(one) for one in conversation]
    if isinstance(conversation, Mapping) and isinstance(conversation.get("content"), list):
        parts = conversation["content"]
        if all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
            return {**conversation, "content": "".join(str(part.get("text", "")) for part in parts)}
    return conversation
