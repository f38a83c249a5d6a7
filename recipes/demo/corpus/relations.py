"""Facts about somebody or something, and how people ask for them.

An answer restates the fact in the fact's own words ("Where does Anna live?" - "Anna lives in Leeds."): the
words before the value lead the model back to where they occurred.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.demo.corpus import values
from recipes.demo.corpus.conversation import Language
from recipes.demo.corpus.names import person, town
from recipes.demo.corpus.split import Split
from recipes.demo.corpus.words import HOBBIES, JOBS, OBJECTS, PLACES, a, side

Maker = Callable[[random.Random, Split, Language], str]


@dataclass(frozen=True)
class Relation:
    """How one kind of fact is said and asked: `{s}` is its subject, `{v}` its value."""

    subject: Maker
    value: Maker
    fact: dict[Language, str]
    questions: dict[Language, tuple[str, ...]]


def _object(rng: random.Random, split: Split, language: Language) -> str:
    return rng.choice(side(OBJECTS, language)[:-8])


def _place(rng: random.Random, split: Split, language: Language) -> str:
    return values.word(rng, split, PLACES, language)


def _code(rng: random.Random, split: Split, language: Language) -> str:
    return values.code(rng, split)


def _age(rng: random.Random, split: Split, language: Language) -> str:
    return values.number(rng, split, 5, 99)


def _price(rng: random.Random, split: Split, language: Language) -> str:
    return values.number(rng, split, 2, 999)


def _clock(rng: random.Random, split: Split, language: Language) -> str:
    return values.clock(rng, split)


def _password(rng: random.Random, split: Split, language: Language) -> str:
    return values.password(rng, split)


def _job(rng: random.Random, split: Split, language: Language) -> str:
    job = values.word(rng, split, JOBS, language)
    return a(job) if language == "en" else job


def _hobby(rng: random.Random, split: Split, language: Language) -> str:
    return values.word(rng, split, HOBBIES, language)


CODE = Relation(
    person,
    _code,
    {"en": "The code of {s} is {v}.", "zh": "{s}的号码是{v}。"},
    {
        "en": ("What is the code of {s}?", "Which code does {s} have?", "Tell me the code of {s}.", "{s}'s code?"),
        "zh": ("{s}的号码是多少？", "请告诉我{s}的号码。", "{s}的号码是什么？", "{s}的号码呢？"),
    },
)
PASSWORD = Relation(
    person,
    _password,
    {"en": "The password of {s} is {v}.", "zh": "{s}的密码是{v}。"},
    {
        "en": ("What is the password of {s}?", "Which password does {s} use?", "Tell me the password of {s}."),
        "zh": ("{s}的密码是什么？", "{s}的密码是多少？", "请告诉我{s}的密码。"),
    },
)
TOWN = Relation(
    person,
    town,
    {"en": "{s} lives in {v}.", "zh": "{s}住在{v}。"},
    {
        "en": ("Where does {s} live?", "In which town does {s} live?", "Where is the home of {s}?"),
        "zh": ("{s}住在哪里？", "{s}住在哪儿？", "{s}住在哪个地方？", "{s}家在哪里？"),
    },
)
AGE = Relation(
    person,
    _age,
    {"en": "{s} is {v} years old.", "zh": "{s}今年{v}岁。"},
    {
        "en": ("How old is {s}?", "What is the age of {s}?", "Tell me how old {s} is."),
        "zh": ("{s}今年多大？", "{s}几岁了？", "{s}今年几岁？", "{s}多大年纪？"),
    },
)
JOB = Relation(
    person,
    _job,
    {"en": "{s} works as {v}.", "zh": "{s}的职业是{v}。"},
    {
        "en": ("What does {s} work as?", "What is the job of {s}?", "What does {s} do for a living?"),
        "zh": ("{s}的职业是什么？", "{s}是做什么工作的？", "{s}做什么工作？"),
    },
)
HOBBY = Relation(
    person,
    _hobby,
    {"en": "{s}'s hobby is {v}.", "zh": "{s}的爱好是{v}。"},
    {
        "en": ("What is {s}'s hobby?", "Which hobby does {s} have?", "What does {s} like to do?"),
        "zh": ("{s}的爱好是什么？", "{s}有什么爱好？", "{s}喜欢做什么？"),
    },
)
BOUGHT = Relation(
    person,
    lambda rng, split, language: values.coloured_object(rng, split, language),
    {"en": "{s} bought {v}.", "zh": "{s}买了{v}。"},
    {
        "en": ("What did {s} buy?", "Which thing did {s} buy?", "Tell me what {s} bought."),
        "zh": ("{s}买了什么？", "{s}买了什么东西？", "请问{s}买了什么？"),
    },
)
TEACHER = Relation(
    person,
    person,
    {"en": "The teacher of {s} is {v}.", "zh": "{s}的老师是{v}。"},
    {
        "en": ("Who is the teacher of {s}?", "Who teaches {s}?", "What is the name of {s}'s teacher?"),
        "zh": ("{s}的老师是谁？", "谁是{s}的老师？", "{s}的老师叫什么？"),
    },
)
MEETING = Relation(
    person,
    _clock,
    {"en": "The meeting with {s} starts at {v}.", "zh": "和{s}的会议{v}开始。"},
    {
        "en": (
            "When does the meeting with {s} start?",
            "At what time do we meet {s}?",
            "When is the meeting with {s}?",
        ),
        "zh": ("和{s}的会议几点开始？", "和{s}的会议什么时候开始？", "几点和{s}开会？"),
    },
)
WHERE = Relation(
    _object,
    _place,
    {"en": "The {s} is in the {v}.", "zh": "{s}在{v}。"},
    {
        "en": ("Where is the {s}?", "Where can I find the {s}?", "Where did the {s} go?"),
        "zh": ("{s}在哪里？", "{s}在哪儿？", "{s}放在哪里了？"),
    },
)
PRICE = Relation(
    _object,
    _price,
    {"en": "The {s} costs {v} yuan.", "zh": "{s}的价格是{v}元。"},
    {
        "en": ("How much does the {s} cost?", "What is the price of the {s}?", "How much is the {s}?"),
        "zh": ("{s}的价格是多少？", "{s}多少钱？", "{s}要多少钱？"),
    },
)

RELATIONS = (CODE, PASSWORD, TOWN, AGE, JOB, HOBBY, BOUGHT, TEACHER, MEETING, WHERE, PRICE)
