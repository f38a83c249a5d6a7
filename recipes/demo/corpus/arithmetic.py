"""Sums and differences of numbers from 0 to 99, asked in many ways and answered in one way: "23 + 45 = 68"."""

from __future__ import annotations

import random
from typing import Literal

from recipes.demo.corpus.conversation import Language, Talk, Turn, one_turn
from recipes.demo.corpus.split import Split, split_of

Operation = Literal["+", "-"]

QUESTIONS: dict[tuple[Language, Operation], tuple[str, ...]] = {
    ("en", "+"): (
        "{a} + {b}",
        "{a}+{b}",
        "{a} + {b} = ?",
        "{a}+{b}=",
        "What is {a} + {b}?",
        "What is {a} plus {b}?",
        "what's {a}+{b}?",
        "How much is {a} plus {b}?",
        "Calculate {a} + {b}.",
        "Please add {a} and {b}.",
        "Add {a} and {b}",
        "What is the sum of {a} and {b}?",
        "Can you tell me what {a} plus {b} is?",
        "I have {a} apples and get {b} more. How many do I have now?",
        "There are {a} boys and {b} girls in the hall. How many children are there?",
        "Tom reads {a} pages today and {b} pages tomorrow. How many pages is that?",
    ),
    ("en", "-"): (
        "{a} - {b}",
        "{a}-{b}",
        "{a} - {b} = ?",
        "{a}-{b}=",
        "What is {a} - {b}?",
        "What is {a} minus {b}?",
        "what's {a}-{b}?",
        "How much is {a} minus {b}?",
        "Calculate {a} - {b}.",
        "Please subtract {b} from {a}.",
        "Take {b} away from {a}",
        "What is the difference when I take {b} from {a}?",
        "Can you tell me what {a} minus {b} is?",
    ),
    ("zh", "+"): (
        "{a}+{b}",
        "{a} + {b}",
        "{a}+{b}=？",
        "{a}+{b}=",
        "{a}加{b}等于多少？",
        "{a}加{b}等于几",
        "{a}+{b}等于多少？",
        "请问{a}加{b}是多少？",
        "计算{a}+{b}",
        "请计算{a}加{b}。",
        "帮我算一下{a}+{b}",
        "{a}和{b}的和是多少？",
        "算一算：{a}加上{b}得多少？",
        "我有{a}个苹果，又买了{b}个，现在有几个？",
        "教室里有{a}个男生和{b}个女生，一共有多少人？",
        "今天看了{a}页书，明天看{b}页，一共看多少页？",
    ),
    ("zh", "-"): (
        "{a}-{b}",
        "{a} - {b}",
        "{a}-{b}=？",
        "{a}-{b}=",
        "{a}减{b}等于多少？",
        "{a}减{b}等于几",
        "{a}-{b}等于多少？",
        "请问{a}减{b}是多少？",
        "计算{a}-{b}",
        "请计算{a}减{b}。",
        "帮我算一下{a}-{b}",
        "{a}和{b}的差是多少？",
        "算一算：{a}减去{b}得多少？",
    ),
}
NUM_BARE = 4  # the first questions above contain no words
DRILL_TURNS = (5, 12)
# A story in which something is taken away needs a result that is not negative.
TAKE_AWAY: dict[Language, tuple[str, ...]] = {
    "en": (
        "I have {a} coins and spend {b}. How many are left?",
        "There were {a} birds on the roof and {b} flew away. How many are left?",
    ),
    "zh": (
        "我有{a}块钱，花了{b}块，还剩多少？",
        "树上有{a}只鸟，飞走了{b}只，还剩几只？",
    ),
}
FOLLOW_UPS: dict[tuple[Language, Operation], tuple[str, ...]] = {
    ("en", "+"): ("Add {b} to that.", "Now add {b}.", "And plus {b}?", "Plus {b}", "What if I add {b} to it?"),
    ("en", "-"): ("Subtract {b} from that.", "Now subtract {b}.", "And minus {b}?", "Minus {b}", "Take away {b}."),
    ("zh", "+"): ("再加{b}呢？", "再加上{b}", "加{b}是多少？", "然后加{b}", "结果再加{b}等于几？"),
    ("zh", "-"): ("再减{b}呢？", "再减去{b}", "减{b}是多少？", "然后减{b}", "结果再减{b}等于几？"),
}
CANNOT: dict[Language, str] = {
    "en": "I can only add and subtract numbers from 0 to 99.",
    "zh": "我只会算0到99的加减法。",
}
TOO_HARD: dict[Language, tuple[str, ...]] = {
    "en": (
        "What is {a} times {b}?",
        "{a} * {b}",
        "{a} × {b} = ?",
        "What is {a} divided by {b}?",
        "{a} / {b}",
        "What is the square root of {a}?",
        "Multiply {a} by {b}.",
        "What is {a} percent of {b}?",
        "What is 1{a}0 + {b}?",
        "3{a}2 - {b}",
    ),
    "zh": (
        "{a}乘以{b}等于多少？",
        "{a}乘{b}",
        "{a}×{b}=？",
        "{a}*{b}",
        "{a}除以{b}等于多少？",
        "{a}÷{b}",
        "{a}的平方根是多少？",
        "{b}的百分之{a}是多少？",
        "1{a}0加{b}等于多少？",
        "3{a}2-{b}",
    ),
}


def pair_key(a: int, b: int) -> str:
    """The key of an operand pair: the same for a + b, b + a, a - b and b - a."""
    return f"pair {min(a, b)} {max(a, b)}"


def operands(rng: random.Random, split: Split) -> tuple[int, int]:
    """Two numbers from 0 to 99 whose pair belongs to `split`; one in four has a number of one digit."""
    while True:
        a, b = rng.randint(0, 99), rng.randint(0, 9 if rng.random() < 0.25 else 99)
        if rng.random() < 0.5:
            a, b = b, a
        if split_of(pair_key(a, b)) == split:
            return a, b


def result(a: int, operation: Operation, b: int) -> int:
    """a + b or a - b."""
    return a + b if operation == "+" else a - b


def answer(a: int, operation: Operation, b: int) -> str:
    """The answer as it is always written."""
    return f"{a} {operation} {b} = {result(a, operation, b)}"


def _first(rng: random.Random, split: Split, language: Language) -> tuple[Turn, int]:
    a, b = operands(rng, split)
    operation: Operation = rng.choice(("+", "-"))
    questions = QUESTIONS[language, operation]
    if operation == "-" and a >= b:
        questions += TAKE_AWAY[language]
    question = rng.choice(questions).format(a=a, b=b)
    return (question, answer(a, operation, b)), result(a, operation, b)


def _follow_up(rng: random.Random, split: Split, language: Language, value: int) -> tuple[Turn, int]:
    """A turn that continues from `value`, with an operand that keeps the pair within `split`."""
    b = rng.choice([b for b in range(100) if split_of(pair_key(value, b)) == split])
    operation: Operation = rng.choice(("+", "-"))
    question = rng.choice(FOLLOW_UPS[language, operation]).format(b=b)
    return (question, answer(value, operation, b)), result(value, operation, b)


def talk(rng: random.Random, split: Split, language: Language) -> Talk:
    """One question, sometimes with one that continues from its result; expects the last answer's number."""
    turn, value = _first(rng, split, language)
    if rng.random() < 0.2 and 0 <= value <= 99:
        next_turn, value = _follow_up(rng, split, language, value)
        return Talk((turn, next_turn), str(value))
    return one_turn(*turn, str(value))


def drill(rng: random.Random, split: Split, language: Language) -> Talk:
    """Many sums in a row, most of them asked without words: this fits the most examples into the same tokens."""
    turns = []
    value = 0
    for _ in range(rng.randint(*DRILL_TURNS)):
        if rng.random() < 0.25:
            turn, value = _first(rng, split, language)
        else:
            a, b = operands(rng, split)
            operation: Operation = rng.choice(("+", "-"))
            question = rng.choice(QUESTIONS[language, operation][:NUM_BARE]).format(a=a, b=b)
            turn, value = (question, answer(a, operation, b)), result(a, operation, b)
        turns.append(turn)
    return Talk(tuple(turns), str(value))


def too_hard(rng: random.Random, split: Split, language: Language) -> Talk:
    """A calculation that the model has not learnt, answered honestly."""
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    return one_turn(rng.choice(TOO_HARD[language]).format(a=a, b=b), CANNOT[language])
