"""Questions about what users said about themselves some turns ago."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.demo.corpus import arithmetic, knowledge, smalltalk, values, words
from recipes.demo.corpus.conversation import Language, Talk, Turn
from recipes.demo.corpus.names import person, town
from recipes.demo.corpus.smalltalk import vary, without_mark
from recipes.demo.corpus.split import Split

Maker = Callable[[random.Random, Split, Language], str]


@dataclass(frozen=True)
class Memory:
    """A fact that users mention: how they say it, the reply, how they ask for it, the answer; `{v}` is its value."""

    value: Maker
    said: dict[Language, tuple[str, ...]]
    noted: dict[Language, str]
    asked: dict[Language, tuple[str, ...]]
    answer: dict[Language, str]


def _word_of(pairs: words.Pairs) -> Maker:
    return lambda rng, split, language: values.word(rng, split, pairs, language)


def _job(rng: random.Random, split: Split, language: Language) -> str:
    job = values.word(rng, split, words.JOBS, language)
    return words.a(job) if language == "en" else job


MEMORIES = (
    Memory(
        person,
        {
            "en": (
                "My name is {v}.",
                "I am {v}.",
                "I'm {v}.",
                "Call me {v}.",
                "Hello, my name is {v}.",
                "You can call me {v}.",
            ),
            "zh": ("我叫{v}。", "我是{v}。", "我的名字是{v}。", "你好，我叫{v}。", "叫我{v}吧。", "我的名字叫{v}。"),
        },
        {
            "en": "Hello, {v}! Nice to meet you. How can I help you?",
            "zh": "你好，{v}！很高兴认识你。有什么可以帮你的吗？",
        },
        {
            "en": (
                "What is my name?",
                "What's my name?",
                "Who am I?",
                "Do you remember my name?",
                "What did I say my name was?",
            ),
            "zh": ("我叫什么名字？", "我叫什么？", "我是谁？", "你还记得我的名字吗？", "我的名字是什么？"),
        },
        {"en": "Your name is {v}.", "zh": "你叫{v}。"},
    ),
    Memory(
        town,
        {
            "en": ("I live in {v}.", "I come from {v}.", "My home is in {v}.", "I am from {v}."),
            "zh": ("我住在{v}。", "我来自{v}。", "我家在{v}。", "我是{v}人。"),
        },
        {"en": "{v} sounds like a nice place!", "zh": "{v}是个好地方！"},
        {
            "en": ("Where do I live?", "Where is my home?", "Which town do I live in?", "Where am I from?"),
            "zh": ("我住在哪里？", "我家在哪儿？", "我是哪里人？", "你还记得我住在哪里吗？"),
        },
        {"en": "You live in {v}.", "zh": "你住在{v}。"},
    ),
    Memory(
        lambda rng, split, language: values.number(rng, split, 6, 90),
        {
            "en": ("I am {v} years old.", "I'm {v} years old.", "My age is {v}."),
            "zh": ("我今年{v}岁。", "我{v}岁了。", "我的年龄是{v}岁。"),
        },
        {"en": "{v} is a good age!", "zh": "{v}岁真好！"},
        {
            "en": ("How old am I?", "What is my age?", "Do you remember my age?"),
            "zh": ("我多大了？", "我几岁？", "我今年几岁？", "你记得我多大吗？"),
        },
        {"en": "You are {v} years old.", "zh": "你今年{v}岁。"},
    ),
    Memory(
        _word_of(words.COLOURS),
        {
            "en": ("My favourite colour is {v}.", "I like {v} best.", "The colour I like most is {v}."),
            "zh": ("我最喜欢的颜色是{v}。", "我最喜欢{v}。", "我喜欢的颜色是{v}。"),
        },
        {"en": "{V} is a beautiful colour!", "zh": "{v}很好看！"},
        {
            "en": ("What is my favourite colour?", "Which colour do I like?", "What colour do I like best?"),
            "zh": ("我最喜欢什么颜色？", "我喜欢什么颜色？", "我最喜欢的颜色是什么？"),
        },
        {"en": "Your favourite colour is {v}.", "zh": "你最喜欢的颜色是{v}。"},
    ),
    Memory(
        _job,
        {
            "en": ("I am {v}.", "I work as {v}.", "I'm {v}."),
            "zh": ("我是一名{v}。", "我的职业是{v}。", "我的工作是{v}。"),
        },
        {"en": "That is an interesting job!", "zh": "真是个好职业！"},
        {
            "en": ("What is my job?", "What do I do for a living?", "What do I work as?"),
            "zh": ("我是做什么的？", "我的职业是什么？", "我做什么工作？"),
        },
        {"en": "You work as {v}.", "zh": "你的职业是{v}。"},
    ),
    Memory(
        person,
        {
            "en": ("My dog is called {v}.", "I have a dog named {v}.", "My dog's name is {v}."),
            "zh": ("我的狗叫{v}。", "我养了一只狗，叫{v}。", "我家小狗的名字是{v}。"),
        },
        {"en": "{v} is a lovely name for a dog!", "zh": "{v}，真可爱的名字！"},
        {
            "en": ("What is my dog called?", "What is the name of my dog?", "What's my dog's name?"),
            "zh": ("我的狗叫什么？", "我的狗叫什么名字？", "我家小狗叫什么？"),
        },
        {"en": "Your dog is called {v}.", "zh": "你的狗叫{v}。"},
    ),
    Memory(
        lambda rng, split, language: values.code(rng, split),
        {
            "en": (
                "My code is {v}.",
                "Remember this code: {v}",
                "My number is {v}.",
                "Please remember the number {v}.",
            ),
            "zh": ("我的号码是{v}。", "记住这个号码：{v}", "我的密码是{v}。", "请记住数字{v}。"),
        },
        {"en": "I will remember {v}.", "zh": "我记住了，{v}。"},
        {
            "en": ("What is my code?", "What was the number?", "Which number did I tell you?", "What is my number?"),
            "zh": ("我的号码是多少？", "刚才的数字是多少？", "我告诉你的号码是什么？", "我的密码是多少？"),
        },
        {"en": "The number is {v}.", "zh": "号码是{v}。"},
    ),
)


def _between(rng: random.Random, split: Split, language: Language) -> tuple[Turn, ...]:
    return rng.choice((smalltalk, arithmetic, knowledge)).talk(rng, split, language).turns


def talk(rng: random.Random, split: Split, language: Language) -> Talk:
    """One or two things told, at most two other turns, and a question for one of the things; expects its value."""
    told = rng.sample(MEMORIES, rng.choice((1, 1, 2)))
    known = [(memory, memory.value(rng, split, language)) for memory in told]
    turns: list[Turn] = []
    for memory, value in known:
        said = without_mark(rng, rng.choice(memory.said[language]).format(v=value))
        turns.append((said, memory.noted[language].format(v=value, V=value[0].upper() + value[1:])))
    for _ in range(rng.choice((0, 0, 1, 2))):
        turns += _between(rng, split, language)
    memory, value = rng.choice(known)
    turns.append((vary(rng, rng.choice(memory.asked[language])), memory.answer[language].format(v=value)))
    return Talk(tuple(turns), value)
