"""Repeating something after the user: the simplest use of earlier text.

Every word of such an answer occurs in the prompt, which makes it the fastest way to learn to look back; names,
codes and whole facts are found the same way later. Random syllables and characters also train the pieces of
words that no other talk contains.
"""

from __future__ import annotations

import random

from recipes.demo.corpus import relations, values
from recipes.demo.corpus.conversation import Language, Talk, one_turn
from recipes.demo.corpus.filler import SENTENCES
from recipes.demo.corpus.names import COMMON, person, town
from recipes.demo.corpus.split import Split

REQUESTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Repeat after me: {text}",
        "Repeat: {text}",
        "Please say: {text}",
        "Say this: {text}",
        "Write exactly this: {text}",
        "Repeat the following.\n{text}",
        "Copy this text: {text}",
    ),
    "zh": (
        "跟我读：{text}",
        "请重复：{text}",
        "请跟我说：{text}",
        "重复这句话：{text}",
        "把这句话再说一遍：{text}",
        "照着写：{text}",
        "请原样输出下面的文字。\n{text}",
    ),
}


def _fact(rng: random.Random, split: Split, language: Language) -> str:
    relation = rng.choice(relations.RELATIONS)
    subject, value = relation.subject(rng, split, language), relation.value(rng, split, language)
    return relation.fact[language].format(s=subject, v=value)


def _words(rng: random.Random, split: Split, language: Language) -> str:
    count = rng.randint(2, 8)
    if language == "zh":
        return "".join(rng.choice(rng.choice((COMMON, values.CHARACTERS))) for _ in range(count + 2))
    return " ".join(values.unheard(rng, language) for _ in range(count))


def _digits(rng: random.Random, split: Split, language: Language) -> str:
    return " ".join(values.code(rng, split) for _ in range(rng.randint(1, 4)))


def _names(rng: random.Random, split: Split, language: Language) -> str:
    comma = "，" if language == "zh" else ", "
    return comma.join(rng.choice((person, town))(rng, split, language) for _ in range(rng.randint(2, 5)))


def _sentence(rng: random.Random, split: Split, language: Language) -> str:
    return rng.choice(SENTENCES[language])


def talk(rng: random.Random, split: Split, language: Language) -> Talk:
    """A request to repeat something; expects it word for word."""
    make = rng.choice((_fact, _words, _words, _digits, _names, _sentence))
    text = make(rng, split, language)
    return one_turn(rng.choice(REQUESTS[language]).format(text=text), text)
