"""The functions of the published qwen_generation_utils.py that recipes import, with its argument order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from qwartet.compat.tokenization import QWenTokenizer
from qwartet.tokenizer import chatml
from qwartet.tokenizer.chatml import ChatFormat
from qwartet.tokenizer.history import GivenHistory, turns_of


def make_context(
    tokenizer: QWenTokenizer,
    query: str,
    history: GivenHistory | None = None,
    system: str = "",
    max_window_size: int = 6144,
    chat_format: ChatFormat = "chatml",
) -> tuple[str, list[int]]:
    """Text and ids of a prompt: as many of the newest turns as fit with the system prompt below max_window_size."""
    turns = turns_of(history, system or None)
    context = chatml.make_context(
        tokenizer.core, query, turns, turns.system if system == "" and turns.system else system, max_window_size,
        chat_format,
    )  # fmt: skip
    return context.raw_text, context.ids


def decode_tokens(
    tokens: Tensor | Sequence[int],
    tokenizer: QWenTokenizer,
    raw_text_len: int,
    context_length: int,
    chat_format: ChatFormat,
    verbose: bool = False,
    return_end_reason: bool = False,
    errors: str = "replace",
) -> Any:
    """Text of the completion in prompt and completion ids [T]; with `return_end_reason` (text, reason).

    `verbose` prints what the text was cut from. The quirks are those of chatml.decode_tokens.
    """
    ids = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
    text, end_reason = chatml.decode_tokens(
        tokenizer.core, ids, raw_text_len, context_length, chat_format, errors=errors
    )
    if verbose:
        print(f"\nRaw Generate: {tokenizer.decode(ids, errors=errors)[raw_text_len:]}\nEnd Reason: {end_reason}")
    return (text, end_reason) if return_end_reason else text


def get_stop_words_ids(chat_format: ChatFormat, tokenizer: QWenTokenizer) -> list[list[int]]:
    """Id lists that end a completion in a chat format."""
    return chatml.stop_words_ids(tokenizer.core, chat_format)
