"""ChatML, the chat format of first-generation Qwen; the single implementation for chat, server, training, evaluation.

    <|im_start|>system\\n{system}<|im_end|>\\n
    <|im_start|>user\\n{query}<|im_end|>\\n
    <|im_start|>assistant\\n{answer}<|im_end|>\\n        (the line breaks here are for readability; only \\n counts)

Markers are inserted as ids; roles and contents are encoded separately, with special tokens in them as plain text. So no
content can open or close a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qwartet.errors import RequestError, SettingError
from qwartet.tokenizer.vocabulary import ENDOFTEXT, IM_END, IM_START

if TYPE_CHECKING:
    from qwartet.tokenizer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
DEFAULT_SYSTEM = "You are a helpful assistant."
# The same format as a Jinja template, for clients that ask for one.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>"
    "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
IGNORED_LABEL = -100  # torch's cross entropy leaves these positions out

ChatFormat = Literal["chatml", "raw"]
LossOn = Literal["published", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; raises RequestError for an unknown role or a content that is not a string."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RequestError(f"role is {self.role!r}; use one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise RequestError(f"the content of a {self.role} message is {type(self.content).__name__}; pass a string")


@dataclass(frozen=True)
class Context:
    """A prompt as the published `make_context` builds it."""

    raw_text: str
    ids: list[int]
    turns_kept: int | None  # of the history, newest first; None for raw, which takes no history


def build_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True, *, answer_start: str = ""
) -> list[int]:
    """Prompt ids of a conversation; the published system prompt comes first unless the conversation begins with one.
    Further system messages are turns like the others.

    `answer_start` is text that the assistant's answer begins with: the prompt ends after it, inside the turn.
    """
    newline = tokenizer.encode("\n")
    ids: list[int] = []
    for message in _with_system(messages):
        ids += (newline if ids else []) + _turn_ids(tokenizer, message)
    if add_generation_prompt:
        ids += newline + _opening_ids(tokenizer, "assistant")
        ids += _content_ids(tokenizer, Message("assistant", answer_start))
    return ids


def make_context(
    tokenizer: Tokenizer,
    query: str,
    history: Sequence[tuple[str, str]] | None = None,
    system: str = "",
    max_window_size: int = 6144,
    chat_format: ChatFormat = "chatml",
) -> Context:
    """The published prompt: as many of the newest (query, answer) turns as fit with the system prompt below
    `max_window_size` tokens. The query itself is neither counted nor cut. Format raw is the query alone, with its
    special tokens parsed.
    """
    if _checked_format(chat_format) == "raw":
        return Context(query, tokenizer.encode(query, allowed_special="all"), None)
    newline = tokenizer.encode("\n")
    system_message = Message("system", system)
    ids, text = _turn_ids(tokenizer, system_message), _turn_text(system_message)
    kept: list[tuple[list[int], str]] = []
    num_used = len(ids)
    for user_content, assistant_content in reversed(history or ()):
        user, assistant = Message("user", user_content), Message("assistant", assistant_content)
        turn = newline + _turn_ids(tokenizer, user) + newline + _turn_ids(tokenizer, assistant)
        if num_used + len(turn) >= max_window_size:
            break
        num_used += len(turn)
        kept.append((turn, f"\n{_turn_text(user)}\n{_turn_text(assistant)}"))
    for turn, turn_text in reversed(kept):
        ids, text = ids + turn, text + turn_text
    user = Message("user", query)
    ids += newline + _turn_ids(tokenizer, user) + newline + _opening_ids(tokenizer, "assistant")
    text += f"\n{_turn_text(user)}\n{IM_START}assistant\n"
    return Context(text, ids, len(kept))


def decode_tokens(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    raw_text_len: int,
    context_length: int,
    chat_format: ChatFormat,
    errors: str = "replace",
) -> tuple[str, str]:
    """Text and end reason of the published `decode_tokens`, for prompt and completion ids together.

    Its quirks are kept: without an end marker the last token is lost, and the prompt is cut off by its number of
    characters before NFC. `LLM` has neither.
    """
    end_reason = f"Gen length {len(tokens)}"
    if _checked_format(chat_format) == "raw":
        text = tokenizer.decode(tokens, errors=errors)[raw_text_len:]
        return text.replace(ENDOFTEXT, "").strip(), end_reason
    end = max(context_length, len(tokens) - 1)
    for i in range(context_length, len(tokens)):
        if tokens[i] in (tokenizer.im_end_id, tokenizer.im_start_id):
            end, end_reason = i, f"Gen {tokenizer.decode([tokens[i]])!r}"
            break
    return tokenizer.decode(tokens[:end], errors=errors)[raw_text_len:].strip(), end_reason


def stop_words_ids(tokenizer: Tokenizer, chat_format: ChatFormat) -> list[list[int]]:
    """Id lists that end a completion, as published for the format."""
    if _checked_format(chat_format) == "raw":
        return [tokenizer.encode("Human:"), [tokenizer.eod_id]]
    return [[tokenizer.im_end_id], [tokenizer.im_start_id]]


def training_example(
    tokenizer: Tokenizer, messages: Sequence[Message], max_length: int, loss_on: LossOn = "published"
) -> tuple[list[int], list[int]]:
    """Ids and labels, each at most `max_length` long, of one conversation; an ignored label is -100.

    "published" keeps, besides the assistant's contents, the markers and the newline of every turn; "assistant" keeps
    only contents, <|im_end|> and newline of the assistant. A first turn that is not the user's is dropped, excess
    tokens are cut at the end, nothing is padded. Unlike in the published script, special tokens in contents are plain
    text.
    """
    if loss_on not in ("published", "assistant"):
        raise SettingError(f"loss_on is {loss_on!r}; use 'published' or 'assistant'")
    if max_length < 1:
        raise SettingError(f"max_length is {max_length}; it must be at least 1")
    system, *turns = _with_system(messages)
    if any(message.role == "system" for message in turns):
        raise RequestError("a system message comes after the first message; put it first")
    if turns and turns[0].role != "user":
        del turns[0]
    newline = tokenizer.encode("\n")
    ids: list[int] = []
    labels: list[int] = []
    for message in (system, *turns):
        opening = _opening_ids(tokenizer, message.role)
        content = _content_ids(tokenizer, message)
        closing = [tokenizer.im_end_id, *newline]
        is_assistant = message.role == "assistant"
        keeps_markers = loss_on == "published"
        ids += opening + content + closing
        labels += opening[:1] if keeps_markers else [IGNORED_LABEL]
        labels += [IGNORED_LABEL] * (len(opening) - 1)
        labels += content if is_assistant else [IGNORED_LABEL] * len(content)
        labels += closing if is_assistant or keeps_markers else [IGNORED_LABEL] * len(closing)
    return ids[:max_length], labels[:max_length]


def _with_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation with a system message first."""
    if not messages:
        raise RequestError("the conversation is empty; pass at least one message")
    if messages[0].role == "system":
        return list(messages)
    return [Message("system", DEFAULT_SYSTEM), *messages]


def _opening_ids(tokenizer: Tokenizer, role: str) -> list[int]:
    return [tokenizer.im_start_id, *tokenizer.encode(role), *tokenizer.encode("\n")]


def _content_ids(tokenizer: Tokenizer, message: Message) -> list[int]:
    # The tokenizer's default, made explicit: this line keeps a content inside its turn.
    return tokenizer.encode(message.content, allowed_special=())


def _turn_ids(tokenizer: Tokenizer, message: Message) -> list[int]:
    return [*_opening_ids(tokenizer, message.role), *_content_ids(tokenizer, message), tokenizer.im_end_id]


def _turn_text(message: Message) -> str:
    return f"{IM_START}{message.role}\n{message.content}{IM_END}"


def _checked_format(chat_format: str) -> str:
    if chat_format not in ("chatml", "raw"):
        raise SettingError(f"unknown chat format {chat_format!r}; use 'chatml' or 'raw'")
    return chat_format
