"""Multiple choice: a question with options A to D, answered "B. 12", or "B" when only the letter is requested."""

from __future__ import annotations

import random
import re

from recipes.demo.corpus import arithmetic, knowledge, values
from recipes.demo.corpus.conversation import Language, Talk, one_turn
from recipes.demo.corpus.knowledge import Question
from recipes.demo.corpus.split import Split, split_of

LETTERS = "ABCD"
MORE_LETTERS = "ABCDEFGH"  # of lookups: the more options, the less a guess is worth
HEADS: dict[Language, tuple[str, ...]] = {
    "en": (
        "{question}\n{options}",
        "{question}\n\n{options}",
        "Question: {question}\n{options}",
        "Choose the right answer.\n{question}\n{options}",
        "{question}\n{options}\nWhich one is right?",
        "Answer the multiple-choice question.\n{question}\n{options}\nAnswer:",
    ),
    "zh": (
        "{question}\n{options}",
        "{question}\n\n{options}",
        "题目：{question}\n{options}",
        "请选择正确的答案。\n{question}\n{options}",
        "{question}\n{options}\n选哪一个？",
        "做选择题。\n{question}\n{options}\n答案：",
    ),
}
LOOKUPS: dict[Language, tuple[str, ...]] = {
    "en": ("Which letter is {x}?", "Which one is {x}?", "Find {x}.", "Where is {x}?"),
    "zh": ("哪个是{x}？", "{x}是哪一个？", "找出{x}。", "{x}在哪个选项？"),
}
LETTER_ONLY: dict[Language, tuple[str, ...]] = {
    "en": ("Answer with the letter only.", "Only give the letter.", "Reply with A, B, C or D."),
    "zh": ("只回答字母。", "只写选项字母。", "请只回答A、B、C或D。"),
}


def _sum(rng: random.Random, split: Split, language: Language) -> Question:
    a, b = arithmetic.operands(rng, split)
    operation: arithmetic.Operation = rng.choice(("+", "-"))
    value = arithmetic.result(a, operation, b)
    asked = rng.choice(arithmetic.QUESTIONS[language, operation][:12]).format(a=a, b=b)
    wrong = {value + step for step in rng.sample((-20, -11, -10, -9, -3, -2, -1, 1, 2, 3, 9, 10, 11, 20), 6)}
    return Question(asked, arithmetic.answer(a, operation, b), str(value), tuple(map(str, sorted(wrong))))


def _comparison(rng: random.Random, split: Split, language: Language) -> Question:
    """Which number is the largest or the smallest: the four numbers together are the key of the split."""
    numbers: list[int] = []
    while not numbers or split_of(f"compare {sorted(numbers)}") != split:
        numbers = rng.sample(range(100), 4)
    largest = rng.random() < 0.5
    english, chinese = ("largest", "最大") if largest else ("smallest", "最小")
    text = f"Which number is the {english}?" if language == "en" else f"哪个数{chinese}？"
    right = max(numbers) if largest else min(numbers)
    return Question(text, str(right), str(right), tuple(str(n) for n in numbers if n != right))


def _known(rng: random.Random, split: Split, language: Language) -> tuple[Question, list[str]]:
    """A question of small knowledge with its options: question, options and order are the key of the split."""
    while True:
        question = knowledge.question_with_options(rng, language)
        options = [question.short, *rng.sample(question.wrong, 3)]
        rng.shuffle(options)
        if split_of(f"choice {question.text} {options}") == split:
            return question, options


def _with_options(language: Language, rng: random.Random, question: str, options: list[str]) -> str:
    dot = rng.choice((". ", ". ", ". ", "、" if language == "zh" else ") "))
    lines = "\n".join(f"{mark}{dot}{option}" for mark, option in zip(MORE_LETTERS, options, strict=False))
    return rng.choice(HEADS[language]).format(question=question, options=lines)


def options_of(text: str) -> dict[str, str]:
    """The options of a question that `talk` asks, by letter."""
    return dict(re.findall(r"^([A-D])(?:\. |、|\) )(.*)$", text, re.MULTILINE))


def lookup(rng: random.Random, split: Split, language: Language) -> Talk:
    """Which letter is before this option? The second half of every choice, taught on its own; expects the letter."""
    num_options = rng.choice((4, 4, 6, 8))
    options: list[str] = []
    while len(set(options)) < num_options:
        options = [
            values.unheard(rng, language) if rng.random() < 0.5 else str(rng.randint(0, 199))
            for _ in range(num_options)
        ]
    place = rng.randrange(num_options)
    letter = MORE_LETTERS[place]
    asked = rng.choice(LOOKUPS[language]).format(x=options[place])
    return one_turn(_with_options(language, rng, asked, options), f"{letter}. {options[place]}", letter)


def talk(rng: random.Random, split: Split, language: Language) -> Talk:
    """A question with four options; expects the letter."""
    kind = rng.random()
    if kind < 0.65:
        question, options = _known(rng, split, language)
    else:
        question = (_sum if kind < 0.85 else _comparison)(rng, split, language)
        options = [question.short, *rng.sample(question.wrong, 3)]
        rng.shuffle(options)
    letter = LETTERS[options.index(question.short)]
    text = _with_options(language, rng, question.text, options)
    if rng.random() < 0.2:
        space = " " if language == "en" else ""
        return one_turn(f"{rng.choice(LETTER_ONLY[language])}{space}{text}", letter)
    return one_turn(text, f"{letter}. {question.short}", letter)
