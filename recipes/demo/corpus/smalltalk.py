"""What people casually say to a toy model, and its short honest answers. The lines are in `smalltalk_en` and `_zh`."""

from __future__ import annotations

import random

from recipes.demo.corpus import smalltalk_en, smalltalk_zh
from recipes.demo.corpus.conversation import Language, Talk, one_turn
from recipes.demo.corpus.split import Split

Lines = tuple[str, ...]
MARKS = "?.!。？！"
SOFTENED = "谁么里儿几样少你"  # a Chinese line that ends so can take a particle: "你是谁呀？"
INTENTS: dict[Language, dict[str, tuple[Lines, Lines]]] = {"en": smalltalk_en.INTENTS, "zh": smalltalk_zh.INTENTS}


def without_mark(rng: random.Random, text: str) -> str:
    """The line, at times without the mark at its end."""
    return text.rstrip(MARKS) if rng.random() < 0.3 else text


def vary(rng: random.Random, text: str) -> str:
    """The same line as another person would type it: without its mark, in small letters, or softened by a particle."""
    body = text.rstrip(MARKS)
    if body[-1] in SOFTENED and rng.random() < 0.25:
        text = body + rng.choice("呀啊") + text[len(body) :]
    text = without_mark(rng, text)
    return text.lower() if text.isascii() and rng.random() < 0.2 else text


def question(rng: random.Random, language: Language, intent: str) -> str:
    """A way of saying `intent`."""
    return vary(rng, rng.choice(INTENTS[language][intent][0]))


def talk(rng: random.Random, split: Split, language: Language, intent: str | None = None) -> Talk:
    """One turn of small talk, about `intent` if it is given; expects the answer word for word."""
    intent = intent or rng.choice(list(INTENTS[language]))
    return one_turn(question(rng, language, intent), rng.choice(INTENTS[language][intent][1]))
