"""The vocabulary as a tokenizer of Hugging Face's library tokenizers, for tools that stream text through it.

It decodes only: `transformers serve` decodes each new token with it. Text becomes ids through Qwartet's tokenizer.
"""

from __future__ import annotations

from typing import Any

from qwartet.tokenizer.byte_alphabet import spelled
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer


def decoding_tokenizer(core: TiktokenTokenizer) -> Any:
    """A tokenizers.Tokenizer with the same ids; its `encode` must not be used."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    ids = {spelled(token): rank for token, rank in core.mergeable_ranks.items()}
    tokenizer = Tokenizer(models.WordLevel({**ids, **core.special_tokens}, unk_token=""))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in core.special_tokens])
    return tokenizer
