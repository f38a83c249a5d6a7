"""Do this vocabulary, these sampling defaults and these weights belong together?"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from qwartet.errors import CheckpointError
from qwartet.models.config import ModelConfig
from qwartet.models.generation_config import GenerationDefaults
from qwartet.models.generation_keys import ID_LISTS, SEQUENCE_LISTS
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
    eos = None if defaults is None else defaults.eos_token_id
    if eos is not None and eos not in vocabulary.special_tokens.values():
        reason = f"eos_token_id is {eos}, no special token of the vocabulary"
        hint = "the .tiktoken file may be cut short: fetch it again"
        mismatches.append(CheckpointError(directory, reason, hint=hint))
    return mismatches


def ids_out_of_range(defaults: GenerationDefaults, config: ModelConfig, directory: Path) -> list[CheckpointError]:
    """The keys of generation_config.json that name tokens which the model has no row for."""
    found = []
    for key in (*SEQUENCE_LISTS, *ID_LISTS):
        runs = getattr(defaults, key) if key in SEQUENCE_LISTS else (getattr(defaults, key),)
        largest = max(chain(*runs), default=0)
        if largest >= config.vocab_size:
            reason = f"{key} holds the id {largest!s:.20}, and the model has {config.vocab_size} tokens (vocab_size)"
            found.append(CheckpointError(directory / "generation_config.json", reason, hint="correct it, or remove it"))
    return found
