"""Values that a fact can have: each is drawn from one split, so that no test value is ever an answer in training."""

from __future__ import annotations

import random

from recipes.demo.corpus.conversation import Language
from recipes.demo.corpus.names import COMMON, invented_word, spliced_word
from recipes.demo.corpus.split import Split, draw, kept
from recipes.demo.corpus.words import COLOURS, HOBBIES, JOBS, OBJECTS, PLACES, SHADES, a, side

UNHEARD = 0.5  # of the words of a fact in training: a list of thirty jobs would be memorised, and the text not read
WORDS = tuple(word for pairs in (JOBS, HOBBIES, PLACES, OBJECTS) for word in side(pairs, "en") if " " not in word)
CHARACTERS = "".join(
    sorted({c for pairs in (JOBS, HOBBIES, PLACES, OBJECTS) for word in side(pairs, "zh") for c in word})
)


def number(rng: random.Random, split: Split, low: int, high: int) -> str:
    """A number from `low` to `high`, both included."""
    return draw(rng, split, lambda r: str(r.randint(low, high)))


def code(rng: random.Random, split: Split) -> str:
    """A code of two to four digits."""
    low, high = rng.choice(((10, 99), (100, 999), (1000, 9999), (1000, 9999)))
    return number(rng, split, low, high)


def clock(rng: random.Random, split: Split) -> str:
    """A time of day in steps of five minutes: "7:40"."""
    return draw(rng, split, lambda r: f"{r.randint(6, 22)}:{5 * r.randint(0, 11):02d}")


def password(rng: random.Random, split: Split) -> str:
    """A word that is in no dictionary."""
    return draw(rng, split, invented_word)


def unheard(rng: random.Random, language: Language) -> str:
    """A word that is in no table: syllables or pieces of words, or two to four Chinese characters."""
    if language == "en":
        return invented_word(rng) if rng.random() < 0.5 else spliced_word(rng, WORDS)
    return "".join(rng.choice(rng.choice((COMMON, CHARACTERS))) for _ in range(rng.choice((2, 2, 3, 4))))


def word(rng: random.Random, split: Split, pairs: tuple[tuple[str, str], ...], language: Language) -> str:
    """A word of a table of `words`; in training often one that is in none, so that it must be read from the text."""
    if split == "train" and rng.random() < UNHEARD:
        return draw(rng, split, lambda r: unheard(r, language))
    return rng.choice(kept(side(pairs, language), split))


def coloured_object(rng: random.Random, split: Split, language: Language) -> str:
    """An object with its colour: "a dark green lamp", "深绿色的台灯"."""
    shade = rng.choice(["", "", *side(SHADES, language)])
    space = " " if language == "en" and shade else ""
    colour = shade + space + rng.choice(side(COLOURS, language))

    is_unheard = split == "train" and rng.random() < UNHEARD

    def make(r: random.Random) -> str:
        noun = unheard(r, language) if is_unheard else r.choice(side(OBJECTS[:-8], language))
        return f"{colour}的{noun}" if language == "zh" else a(f"{colour} {noun}")

    return draw(rng, split, make)
