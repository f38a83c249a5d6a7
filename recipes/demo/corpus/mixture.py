"""The curriculum: which kinds of conversation are drawn as training goes on, and how they are put together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from recipes.demo.corpus import (
    arithmetic,
    choice,
    compliments,
    greetings,
    knowledge,
    memory,
    personas,
    react,
    repeat,
    retrieval,
    smalltalk,
    unknown,
)
from recipes.demo.corpus.conversation import DEFAULT_SYSTEM, LANGUAGES, Conversation, Language, Talk, conversation
from recipes.demo.corpus.split import Split

# Kinds that fit any plain system prompt and can follow one another, and kinds with system prompts of their own.
TALKS: dict[str, Callable[[random.Random, Split, Language], Talk]] = {
    "greeting": greetings.talk,
    "smalltalk": smalltalk.talk,
    "arithmetic": arithmetic.talk,
    "too hard": arithmetic.too_hard,
    "knowledge": knowledge.talk,
    "choice": choice.talk,
    "option lookup": choice.lookup,
    "memory": memory.talk,
    "repeat": repeat.talk,
    "unknown": unknown.talk,
    "retrieval": retrieval.talk,
    "arithmetic drill": arithmetic.drill,
    "retrieval drill": retrieval.drill,
}
STAGED = {"retrieval": retrieval.talk, "retrieval drill": retrieval.drill}  # those that grow with the curriculum
ALONE = ("repeat", "retrieval", "retrieval drill", "arithmetic drill")  # those that precede no other talk
CONVERSATIONS: dict[str, Callable[[random.Random, Split, Language], Conversation]] = {
    "persona": personas.draw,
    "compliment": compliments.draw,
    "react": react.draw,
}

# Conversations of a kind in a hundred, at the start, after a quarter and at the end; in between, a straight line.
# Looking back (repeat, retrieval) comes first: names in a persona, a memory or a tool call are built on it.
ANCHORS = (0.0, 0.25, 1.0)
WEIGHTS: dict[str, tuple[float, float, float]] = {
    "repeat": (29, 9, 4),
    "retrieval": (16, 13, 14),
    "retrieval drill": (18, 11, 8),
    "arithmetic": (6, 6, 5),
    "arithmetic drill": (4, 8, 4),
    "greeting": (5, 4, 4),
    "smalltalk": (5, 6, 6),
    "knowledge": (4, 7, 7),
    "choice": (1, 8, 20),
    "option lookup": (5, 11, 7),
    "memory": (2, 5, 5),
    "persona": (3, 5, 7),
    "unknown": (1, 3, 3),
    "react": (0, 2, 4),
    "compliment": (1, 1, 2),
    "too hard": (0, 1, 1),
}
STAGE_STARTS = (0.0, 0.15, 0.3, 0.5)  # progress at which each of retrieval.STAGES begins
LONG_START = 0.7  # and the long texts

PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are an assistant.",
    "You are a small helpful model.",
    "Help the user.",
    "Answer the user's questions.",
    "你是一个乐于助人的助手。",
    "你是一个有用的助手",
    "请回答用户的问题。",
    "",
)


def weight(kind: str, progress: float) -> float:
    """How many conversations in a hundred are of `kind` at a progress from 0 to 1."""
    start, quarter, end = WEIGHTS[kind]
    if progress < ANCHORS[1]:
        return start + (quarter - start) * progress / ANCHORS[1]
    return quarter + (end - quarter) * (progress - ANCHORS[1]) / (ANCHORS[2] - ANCHORS[1])


def retrieval_stage(rng: random.Random, progress: float) -> retrieval.Stage:
    """The newest stage in two cases of three, else one that came before it."""
    reached = sum(progress >= start for start in STAGE_STARTS)
    newest = reached - 1
    return retrieval.STAGES[newest if rng.random() < 0.67 else rng.randrange(reached)]


def _talk(rng: random.Random, split: Split, language: Language, kind: str, progress: float) -> Talk:
    if kind in STAGED:
        return STAGED[kind](rng, split, language, retrieval_stage(rng, progress))
    return TALKS[kind](rng, split, language)


def _system(rng: random.Random) -> str:
    return DEFAULT_SYSTEM if rng.random() < 0.85 else rng.choice(PLAIN_SYSTEMS)


def _kind(rng: random.Random, kinds: Iterable[str], progress: float) -> str:
    drawn = list(kinds)
    return rng.choices(drawn, [weight(kind, progress) for kind in drawn])[0]


def draw_text(rng: random.Random, split: Split, progress: float) -> Conversation:
    """One talk without a system prompt that matters, for pretraining."""
    language: Language = rng.choice(LANGUAGES)
    kind = _kind(rng, TALKS, progress)
    return conversation(kind, _talk(rng, split, language, kind, progress))


def draw(rng: random.Random, split: Split, progress: float) -> Conversation:
    """A conversation as it is drawn at `progress`; its kind is that of its last talk."""
    language: Language = rng.choice(LANGUAGES)
    kind = _kind(rng, WEIGHTS, progress)
    if kind in CONVERSATIONS:
        return CONVERSATIONS[kind](rng, split, language)
    last = _talk(rng, split, language, kind, progress)
    before: list[str] = []
    if kind != "repeat" and rng.random() < 0.3:
        before = rng.choices([other for other in TALKS if other not in ALONE], k=rng.choice((1, 1, 2)))
    turns = [turn for other in before for turn in TALKS[other](rng, split, language).turns]
    return conversation(kind, Talk((*turns, *last.turns), last.expect), _system(rng))


def draw_long(rng: random.Random, split: Split) -> Conversation:
    """A fact to be found in a text of one or several pages."""
    language: Language = rng.choice(LANGUAGES)
    return conversation("long retrieval", retrieval.talk(rng, split, language, retrieval.LONG))


def draw_one(rng: random.Random, split: Split, kind: str) -> Conversation:
    """A conversation of one kind as it is at the end of the curriculum, with nothing before it."""
    language: Language = rng.choice(LANGUAGES)
    if kind in CONVERSATIONS:
        return CONVERSATIONS[kind](rng, split, language)
    return conversation(kind, _talk(rng, split, language, kind, 1.0))
