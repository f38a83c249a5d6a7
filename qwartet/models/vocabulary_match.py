"""Do this vocabulary and these weights belong together?"""

from __future__ import annotations

from pathlib import Path

from qwartet.errors import CheckpointError
from qwartet.models.config import ModelConfig
from qwartet.models.generation_config import GenerationDefaults
from qwartet.tokenizer.tokenizer import Tokenizer
from qwartet.tokenizer.vocabulary import Vocabulary


def vocabulary_mismatches(
    vocabulary: Vocabulary | Tokenizer,
    config: ModelConfig | None,
    defaults: GenerationDefaults | None,
    directory: Path,
) -> list[CheckpointError]:
    """What speaks against it; the padding rows that published embeddings have do not."""
    mismatches = []
    if config is not None and config.vocab_size < vocabulary.num_tokens:
        reason = f"vocab_size is {config.vocab_size}, but the tokenizer has {vocabulary.num_tokens} tokens"
        hint = "tokenizer and weights belong to different models"
        mismatches.append(CheckpointError(directory, reason, hint=hint))
    for eos in () if defaults is None else defaults.eos_token_ids:
        if eos not in vocabulary.special_tokens.values():
            reason = f"eos_token_id is {eos}, no special token of the vocabulary"
            hint = "the .tiktoken file may be cut short: fetch it again"
            mismatches.append(CheckpointError(directory, reason, hint=hint))
    return mismatches
