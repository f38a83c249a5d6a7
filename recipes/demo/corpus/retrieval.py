"""A text with some facts in it and a question for one of them.

At full length retrieval does not emerge within a small model's budget; it does if texts grow gradually. So
the stages go from two facts alone to a page of text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from recipes.demo.corpus.conversation import Language, Talk, one_turn
from recipes.demo.corpus.filler import sentences
from recipes.demo.corpus.relations import RELATIONS, Relation
from recipes.demo.corpus.split import Split


@dataclass(frozen=True)
class Stage:
    """How many facts, and how many other sentences among them (both ends included)."""

    facts: tuple[int, int]
    filler: tuple[int, int]


STAGES = (
    Stage(facts=(2, 2), filler=(0, 0)),
    Stage(facts=(2, 4), filler=(0, 1)),
    Stage(facts=(2, 6), filler=(0, 6)),
    Stage(facts=(1, 8), filler=(0, 16)),
)
DRILL_QUESTIONS = 6
LONG = Stage(facts=(1, 12), filler=(30, 130))

LAYOUTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "{text}\n{question}",
        "{text}\n\n{question}",
        "{text} {question}",
        "Text: {text}\nQuestion: {question}",
        "Read the text and answer the question.\n{text}\nQuestion: {question}",
        "Here are some notes: {text}\n{question}",
    ),
    "zh": (
        "{text}\n{question}",
        "{text}\n\n{question}",
        "{text}{question}",
        "文字：{text}\n问题：{question}",
        "阅读下面的文字，回答问题。\n{text}\n问题：{question}",
        "这里有一些笔记：{text}\n{question}",
    ),
}
NOTED: dict[Language, tuple[str, ...]] = {
    "en": ("I have read it.", "I will remember that.", "Noted."),
    "zh": ("我看完了。", "我记住了。", "好的，记下了。"),
}


def _facts(rng: random.Random, split: Split, language: Language, count: int) -> list[tuple[Relation, str, str]]:
    """Different (relation, subject, value): some share the relation, some the subject."""
    relations = rng.sample(RELATIONS, min(count, rng.choice((1, 1, 2, 3))))
    facts: list[tuple[Relation, str, str]] = []
    while len(facts) < count:
        relation = rng.choice(relations)
        earlier = [subject for other, subject, _ in facts if other.subject is relation.subject]
        reuse = earlier and len(relations) > 1 and rng.random() < 0.4
        subject = rng.choice(earlier) if reuse else relation.subject(rng, split, language)
        if not any(other is relation and subject == known for other, known, _ in facts):
            facts.append((relation, subject, relation.value(rng, split, language)))
    return facts


def _text(rng: random.Random, split: Split, language: Language, stage: Stage) -> tuple[str, list[tuple[str, str, str]]]:
    """A text, and a question, an answer and a value for each of its facts."""
    facts = _facts(rng, split, language, rng.randint(*stage.facts))
    asked = []
    for relation, subject, value in facts:
        question = rng.choice(relation.questions[language]).format(s=subject)
        asked.append((question, relation.fact[language].format(s=subject, v=value), value))
    parts = [answer for _, answer, _ in asked] + sentences(rng, language, rng.randint(*stage.filler))
    rng.shuffle(parts)
    return (" " if language == "en" else "").join(parts), asked


def talk(rng: random.Random, split: Split, language: Language, stage: Stage = STAGES[-1]) -> Talk:
    """A text, a question and the answer; expects the value."""
    text, asked = _text(rng, split, language, stage)
    question, answer, value = rng.choice(asked)
    if rng.random() < 0.1:
        return Talk(((text, rng.choice(NOTED[language])), (question, answer)), value)
    return one_turn(rng.choice(LAYOUTS[language]).format(text=text, question=question), answer, value)


def drill(rng: random.Random, split: Split, language: Language, stage: Stage = STAGES[-1]) -> Talk:
    """A text and questions for most of its facts, one after another: several examples for the tokens of one text."""
    text, asked = _text(rng, split, language, stage)
    asked = rng.sample(asked, min(len(asked), DRILL_QUESTIONS))
    turns = [(question, answer) for question, answer, _ in asked]
    turns[0] = (rng.choice(LAYOUTS[language]).format(text=text, question=turns[0][0]), turns[0][1])
    return Talk(tuple(turns), asked[-1][2])
