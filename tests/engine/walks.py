"""Walks along the masks of a constraint, on the bundled model's vocabulary."""

from __future__ import annotations

import random

import numpy as np

from qwartet import DEMO
from qwartet.engine.constrain import Constraint, ConstraintCompiler
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

TOKENIZER = TiktokenTokenizer.load(DEMO)
VOCAB_SIZE = TOKENIZER.num_tokens + 24  # padded, as published checkpoints are
STOPS = (TOKENIZER.im_end_id, TOKENIZER.eod_id)
COMPILER = ConstraintCompiler(TOKENIZER, VOCAB_SIZE, STOPS)

IS_TEXT = np.zeros(VOCAB_SIZE, dtype=bool)
IS_TEXT[list(TOKENIZER.mergeable_ranks.values())] = True
BYTE_IDS = np.array([TOKENIZER.mergeable_ranks[bytes([byte])] for byte in range(256)])
CLOSING_IDS = [TOKENIZER.mergeable_ranks[letter] for letter in (b'"', b"}", b"]", b"1")]


def checked_mask(constraint: Constraint) -> np.ndarray:
    """The mask, and what holds of every one of them with STOPS."""
    mask = constraint.mask()
    assert mask.shape == (VOCAB_SIZE,) and mask.dtype == np.bool_
    assert mask[list(STOPS)].tolist() == [constraint.is_complete] * 2, "stop exactly where the text is whole"
    others = mask & ~IS_TEXT
    others[list(STOPS)] = False
    assert not others.any(), "a special token or a padded row is allowed"
    assert constraint.is_finished == (not (mask & IS_TEXT).any())
    return mask


def walk(constraint: Constraint, rng: random.Random, num_free: int = 25) -> list[int]:
    """Accepts random allowed ids until the text is whole; after `num_free` of them those that bring it to an end."""
    ids: list[int] = []
    while True:
        assert len(ids) < num_free + 300, TOKENIZER.decode(ids)
        mask = checked_mask(constraint)
        if constraint.is_finished or (constraint.is_complete and (len(ids) > num_free or rng.random() < 0.2)):
            return ids
        closing = [token_id for token_id in CLOSING_IDS if mask[token_id]] if len(ids) > num_free else []
        # Half of the time a single byte: few of the tokens with more have a structure's own letters.
        single = BYTE_IDS[mask[BYTE_IDS]] if rng.random() < 0.5 else []
        ids.append(int(rng.choice(closing or list(single) or np.flatnonzero(mask & IS_TEXT))))
        constraint.accept(ids[-1])
