"""Text to ids and back with the library tokenizers, for the checkpoints that come with a tokenizer.json.

Special and other added tokens in a text are plain text unless the caller allows them. They are found here, in Python:
the library's object knows none of them, so it cannot find one. A prompt rendered by a chat template is the exception:
its special tokens are those that the template itself wrote (`encode_traced`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex

from qwartet.errors import RequestError, VocabularyError
from qwartet.tokenizer.byte_alphabet import bytes_of
from qwartet.tokenizer.hf_vocabulary import HfVocabulary
from qwartet.tokenizer.long_whitespace import cut_long_whitespace
from qwartet.tokenizer.normalize import nfc
from qwartet.tokenizer.templates.traced import template_runs
from qwartet.tokenizer.tiktoken_tokenizer import PATTERN, checked_handler, splits_after_line_break
from qwartet.tokenizer.vocabulary import ENDOFTEXT, IM_END, IM_START, SpecialSet

if TYPE_CHECKING:
    from qwartet.tokenizer.templates.template import ChatTemplate

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class NamedTokens:
    """The tokens that tokenizer_config.json names for a purpose, as they are written."""

    eos: str | None = None
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    additional: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Added:
    """The added tokens that are to be found in a text."""

    ids: Mapping[str, int]
    raw: re.Pattern[str] = field(init=False)  # before normalisation
    normalized: re.Pattern[str] = field(init=False)  # after it

    def __init__(self, vocabulary: HfVocabulary, names: Collection[str]) -> None:
        """`names`: those to be found."""
        wanted = [token for token in vocabulary.added if token.content in names]
        normal = nfc if vocabulary.normalizes else str
        ids = {token.content: token.id for token in wanted if not token.normalized}
        later = {normal(token.content): token.id for token in wanted if token.normalized}
        object.__setattr__(self, "ids", later | ids)
        object.__setattr__(self, "raw", _pattern_of(ids))
        object.__setattr__(self, "normalized", _pattern_of(later))


def _pattern_of(tokens: Collection[str]) -> re.Pattern[str]:
    """A pattern of any of these texts; of several that begin at one place, the longest."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


class HfTokenizer:
    """A Tokenizer over the vocabulary of a tokenizer.json.

    `special_tokens` holds all added tokens; `is_special` is true of those alone that the model does not say, so that
    <think> and <tool_call> are part of a decoded text.
    """

    def __init__(
        self,
        vocabulary: HfVocabulary,
        named: NamedTokens | None = None,
        chat_template: ChatTemplate | None = None,
        errors: str = "replace",
    ) -> None:
        """`errors` says how to treat bytes that are not UTF-8; VocabularyError for a named token that is unknown."""
        self.vocabulary = vocabulary
        self.named = named or NamedTokens()
        self.chat_template = chat_template
        self.errors = checked_handler(errors)
        self._build()

    def _build(self) -> None:
        vocabulary = self.vocabulary
        self.special_tokens = {token.content: token.id for token in vocabulary.added}
        self._special_ids = frozenset(token.id for token in vocabulary.added if token.special)
        added_ids = frozenset(self.special_tokens.values())
        self._bytes: list[bytes | None] = [None] * vocabulary.num_tokens
        for text, token_id in vocabulary.vocab.items():
            if text not in self.special_tokens:
                self._bytes[token_id] = bytes_of(text)
        self._text_ids = tuple(sorted(set(vocabulary.vocab.values()) - added_ids))
        for content, token_id in self.special_tokens.items():
            self._bytes[token_id] = content.encode("utf-8", "replace")
        self._core = core_of(vocabulary)
        self._all_added = _Added(vocabulary, self.special_tokens.keys())
        self._allowed: dict[frozenset[str], _Added] = {}
        self._check_special_tokens()
        self.eod_id = self._end_id()

    def _check_special_tokens(self) -> None:
        path = self.vocabulary.path
        for token in self.vocabulary.added:
            if token.special and token.content in self.vocabulary.vocab and self._plain(token.content) == [token.id]:
                reason = f"the special token {token.content!r:.40} is also what this text becomes without being one"
                raise VocabularyError(path, reason, hint="download the file again from the model's source")
        for name in (self.named.eos, self.named.pad):
            if name is not None and name not in self.special_tokens:
                raise VocabularyError(path, f"tokenizer_config.json names the token {name!r:.40}, which is not in it")

    def _end_id(self) -> int:
        names = (ENDOFTEXT, self.named.pad, self.named.eos)
        found = next((name for name in names if name in self.special_tokens), None)
        if found is None:
            hint = "a tokenizer_config.json with eos_token is needed"
            raise VocabularyError(self.vocabulary.path, f"has no {ENDOFTEXT}, and no token ends a text", hint=hint)
        return self.special_tokens[found]

    def __getstate__(self) -> dict[str, Any]:
        """The vocabulary alone; the library's object is rebuilt."""
        return {name: getattr(self, name) for name in ("vocabulary", "named", "chat_template", "errors")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._build()

    @property
    def im_start_id(self) -> int:
        """The id that opens a turn; VocabularyError where conversations have another form."""
        return self._required(IM_START)

    @property
    def im_end_id(self) -> int:
        """The id that closes a turn; VocabularyError where conversations have another form."""
        return self._required(IM_END)

    def _required(self, name: str) -> int:
        if name not in self.special_tokens:
            hint = "its conversations are not in ChatML; use its chat template"
            raise VocabularyError(self.vocabulary.path, f"has no token {name}", hint=hint)
        return self.special_tokens[name]

    @property
    def turn_ids(self) -> tuple[int, ...]:
        """The ids that end an answer in a conversation."""
        names = (self.named.eos, IM_END, IM_START)
        return tuple(dict.fromkeys(self.special_tokens[name] for name in names if name in self.special_tokens))

    @property
    def jinja_template(self) -> str | None:
        """The checkpoint's chat template; None where there is none."""
        return None if self.chat_template is None else self.chat_template.source

    @property
    def num_tokens(self) -> int:
        """One more than the largest id."""
        return len(self._bytes)

    def encode(
        self, text: str, *, allowed_special: SpecialSet = frozenset(), disallowed_special: SpecialSet = ()
    ) -> list[int]:
        """Ids of a text; RequestError if it contains a disallowed token. With allowed_special="all", the ids are those
        that the library gives with its own added tokens.
        """
        allowed = frozenset(self.special_tokens if allowed_special == "all" else allowed_special)
        every = self.special_tokens.keys()
        disallowed = every - allowed if disallowed_special == "all" else set(disallowed_special)
        if disallowed and (found := _pattern_of(disallowed).search(text)):
            raise RequestError(
                f"the text contains the disallowed special token {found.group()!r:.40}; allow it, or leave it out"
            )
        return self._with_added(text, self._added_of(allowed)) if allowed else self._plain(text)

    def encode_traced(self, text: str) -> list[int]:
        """Ids of a text that a chat template rendered: added tokens are those that the template itself wrote."""
        ids: list[int] = []
        done = 0
        for start, end in template_runs(text):
            for begin, stop, token_id in self._found(text, start, end):
                ids += self._plain(text[done:begin])
                ids.append(token_id)
                done = stop
        return ids + self._plain(text[done:])

    def _found(self, text: str, start: int, end: int) -> list[tuple[int, int, int]]:
        """Start, end and id of each added token within text[start:end]."""
        added = self._all_added
        found = [(one.start(), one.end(), added.ids[one.group()]) for one in added.raw.finditer(text, start, end)]
        gaps = zip([start, *(stop for _, stop, _ in found)], [*(begin for begin, _, _ in found), end], strict=True)
        for low, high in list(gaps):
            later = added.normalized.finditer(text, low, high)
            found += [(one.start(), one.end(), added.ids[one.group()]) for one in later]
        return sorted(found)

    def _added_of(self, names: frozenset[str]) -> _Added:
        if names == self.special_tokens.keys():
            return self._all_added
        if names not in self._allowed:
            if len(self._allowed) >= 16:
                self._allowed.clear()
            self._allowed[names] = _Added(self.vocabulary, names)
        return self._allowed[names]

    def _with_added(self, text: str, added: _Added) -> list[int]:
        ids: list[int] = []
        done = 0
        for one in added.raw.finditer(text):
            ids += self._normalized(text[done : one.start()], added)
            ids.append(added.ids[one.group()])
            done = one.end()
        return ids + self._normalized(text[done:], added)

    def _normalized(self, text: str, added: _Added) -> list[int]:
        """Ids of a text in which only the tokens that are found after normalisation are left."""
        ids: list[int] = []
        done = 0
        if added.normalized.pattern != r"(?!)":
            text = nfc(text) if self.vocabulary.normalizes else text
            for one in added.normalized.finditer(text):
                ids += self._plain(text[done : one.start()])
                ids.append(added.ids[one.group()])
                done = one.end()
        return ids + self._plain(text[done:])

    def _plain(self, text: str) -> list[int]:
        """Ids of a text without any added token."""
        if not text:
            return []
        if _SURROGATE.search(text):  # the library takes an unpaired one as an error
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = []
        for part, _ in cut_long_whitespace(text):
            ids += self._core.encode(part, add_special_tokens=False).ids
        return ids

    def splits_at(self, text: str, place: int) -> bool:
        """Whether text[:place] and text[place:] have the ids of the text; False where that is not certain."""
        return splits_after_line_break(text, place)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False, errors: str | None = None) -> str:
        """Text of ids; `skip_special_tokens` drops the special ones; RequestError for an unknown id."""
        handler = self.errors if errors is None else checked_handler(errors)
        skipped = self._special_ids if skip_special_tokens else frozenset()
        content = b"".join(self.decode_bytes(token_id) for token_id in ids if token_id not in skipped)
        try:
            return content.decode("utf-8", handler)
        except UnicodeDecodeError as error:
            raise RequestError(f"the ids are not valid UTF-8 text ({error}); use errors='replace'") from error

    def decode_bytes(self, token_id: int) -> bytes:
        """Bytes of one token; for an added token, those of its written form; RequestError for an unknown id."""
        if isinstance(token_id, SupportsIndex) and 0 <= token_id.__index__() < len(self._bytes):
            found = self._bytes[token_id]
            if found is not None:
                return found
        raise RequestError(f"{token_id!r:.40} is not a token id; ids go from 0 to {self.num_tokens - 1}")

    def is_special(self, token_id: int) -> bool:
        """Whether an id is a special token's, which is no part of the text."""
        return token_id in self._special_ids

    @property
    def text_ids(self) -> Collection[int]:
        """The ids of all tokens that are not added ones."""
        return self._text_ids

    def grammar_tokenizer(self) -> Any:
        """The same vocabulary as llguidance's tokenizer."""
        from llguidance import LLTokenizer  # most runs do not need it

        texts = {self._bytes[token_id]: token_id for token_id in self._text_ids}
        return LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]
            encoder=texts,
            special_tokens=self.special_tokens,
            pattern=PATTERN,
            eos_token=self.eod_id,
            n_vocab=self.num_tokens,
        )

    def has_ids_of(self, other: object) -> bool:
        """Whether the other one has the same tokens under the same ids."""
        return isinstance(other, HfTokenizer) and other._bytes == self._bytes


def core_of(vocabulary: HfVocabulary) -> Any:
    """A tokenizers.Tokenizer without added tokens, made from checked parts only: no text of a file is parsed there."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers  # half a second, for these models only

    model = models.BPE(vocabulary.vocab, vocabulary.merges, ignore_merges=vocabulary.ignores_merges)
    tokenizer = Tokenizer(model)
    if vocabulary.normalizes:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    return tokenizer
