"""Do this vocabulary, these sampling defaults and these weights belong together?"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection
from itertools import chain
from pathlib import Path

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.config import ModelConfig
from qwartet.models.generation_config import GenerationDefaults
from qwartet.models.generation_keys import ID_LISTS, SEQUENCE_LISTS
from qwartet.tokenizer.hf_tokenizer import HfTokenizer
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from qwartet.tokenizer.tokenizer import Tokenizer
from qwartet.tokenizer.vocabulary import ENDOFTEXT, IM_END, SPECIAL_TOKENS, Vocabulary

PUBLISHED_RANKS = 151_643
# Of the first 1,000 tokens of the published vocabulary, joined by newlines.
_FIRST_RANKS_SHA256 = "6cfe7d8cd39ebcf5e0c060ae8aceb44a5b7e3c9477f579a3d19f0a41f696bde1"


def vocabulary_mismatches(
    vocabulary: Vocabulary | Tokenizer,
    config: ModelConfig | None,
    defaults: GenerationDefaults | None,
    directory: Path,
) -> list[CheckpointError]:
    """The mismatches; padding rows, as in published embeddings, are not one."""
    mismatches = []
    if config is not None and config.vocab_size < vocabulary.num_tokens:
        reason = f"vocab_size is {config.vocab_size}, but the tokenizer has {vocabulary.num_tokens} tokens"
        hint = "tokenizer and weights belong to different models"
        mismatches.append(CheckpointError(directory, reason, hint=hint))
    all_eos = () if defaults is None else defaults.eos_token_ids
    lists_tokens = isinstance(vocabulary, HfTokenizer)
    for eos in all_eos:
        if eos not in vocabulary.special_tokens.values():
            reason = f"eos_token_id is {eos}, which is not a special token of the vocabulary"
            hint = f"the {'tokenizer.json' if lists_tokens else '.tiktoken file'} may be truncated: fetch it again"
            mismatches.append(CheckpointError(directory, reason, hint=hint))
            break
    else:
        if not lists_tokens and (lost := _cut_short(vocabulary, config, all_eos)):
            hint = "the .tiktoken file lacks lines at its end: fetch it again"
            mismatches.append(CheckpointError(directory, lost, hint=hint))
    return mismatches


def _cut_short(vocabulary: Vocabulary | Tokenizer, config: ModelConfig | None, eos: Collection[int]) -> str | None:
    """The evidence that a vocabulary lost lines at its end, which shifts the ids of its special tokens; else None.

    A vocabulary that was made smaller on purpose, together with the weights, shows it by eos_token_id.
    """
    end, turn_end = vocabulary.special_tokens[ENDOFTEXT], vocabulary.special_tokens[IM_END]
    if end in eos:
        return None
    num_rows = PUBLISHED_RANKS + len(SPECIAL_TOKENS)
    if _begins_as_published(vocabulary):
        if end < PUBLISHED_RANKS and (config is None or config.vocab_size >= num_rows):
            return f"the vocabulary has {end} of the {PUBLISHED_RANKS} published ranks"
    elif eos and turn_end not in eos:
        name = next(name for name, token_id in vocabulary.special_tokens.items() if token_id in eos)
        return f"eos_token_id is the id of {name} in this vocabulary, which ends nothing"
    elif eos:
        warnings.warn(
            f"eos_token_id is {turn_end}, the id of {IM_END} in this vocabulary; if it should be that of {ENDOFTEXT}, "
            "the .tiktoken file lacks two lines: fetch it again",
            CheckpointWarning,
            stacklevel=3,
        )
    return None


def _begins_as_published(vocabulary: Vocabulary | Tokenizer) -> bool:
    ranks = vocabulary.mergeable_ranks if isinstance(vocabulary, Vocabulary | TiktokenTokenizer) else {}
    first = sorted(ranks, key=ranks.__getitem__)[:1000]
    return hashlib.sha256(b"\n".join(first)).hexdigest() == _FIRST_RANKS_SHA256


def ids_out_of_range(defaults: GenerationDefaults, config: ModelConfig, directory: Path) -> list[CheckpointError]:
    """The keys of generation_config.json with token ids beyond the model's vocab_size, and eos_token_id."""
    found = []
    lists = {"eos_token_id": (defaults.eos_token_ids,)}
    lists |= {key: getattr(defaults, key) for key in SEQUENCE_LISTS}
    lists |= {key: (getattr(defaults, key),) for key in ID_LISTS}
    for key, runs in lists.items():
        largest = max(chain(*runs), default=0)
        if largest >= config.vocab_size:
            reason = f"{key} holds the id {largest!s:.20}, but the model has {config.vocab_size} tokens (vocab_size)"
            found.append(CheckpointError(directory / "generation_config.json", reason, hint="correct or remove it"))
    return found
