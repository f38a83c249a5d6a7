"""Which names, values and operand pairs are for training and which are held back.

A hash of the key decides, so that no lists are needed and all generators agree: one key in five is
held back. A generator is told the split and draws only keys of that split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import cache
from typing import Literal

Split = Literal["train", "test"]
HELD_BACK_PERCENT = 20


def split_of(key: str) -> Split:
    """The split that `key` belongs to: "test" for one key in five."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % 100 < HELD_BACK_PERCENT else "train"


@cache
def kept(keys: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """Those of `keys` that belong to `split`."""
    return tuple(key for key in keys if split_of(key) == split)


def draw(rng: random.Random, split: Split, make: Callable[[random.Random], str]) -> str:
    """Something that `make` builds and that belongs to `split`: draws until one does."""
    while split_of(key := make(rng)) != split:
        pass
    return key
