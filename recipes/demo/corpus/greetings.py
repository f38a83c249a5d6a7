"""Hello in both languages: bare, with a name, at a time of day, with "how are you"."""

from __future__ import annotations

import random
from typing import Literal

from recipes.demo.corpus.conversation import Language, Talk, one_turn
from recipes.demo.corpus.names import person
from recipes.demo.corpus.split import Split, draw

Style = Literal["plain", "name", "how"]

OPENERS: dict[Language, tuple[tuple[str, str], ...]] = {
    # what the user says, what the model answers
    "en": (
        ("Hello", "Hello"),
        ("hello", "Hello"),
        ("Hi", "Hello"),
        ("hi", "Hello"),
        ("Hey", "Hello"),
        ("hey", "Hello"),
        ("Hi there", "Hello"),
        ("Hello there", "Hello"),
        ("hey there", "Hello"),
        ("Hiya", "Hello"),
        ("Hello again", "Hello again"),
        ("Greetings", "Hello"),
        ("Good morning", "Good morning"),
        ("good morning", "Good morning"),
        ("Morning", "Good morning"),
        ("Good afternoon", "Good afternoon"),
        ("Good evening", "Good evening"),
        ("Good day", "Hello"),
        ("Welcome", "Hello"),
        ("Howdy", "Hello"),
    ),
    "zh": (
        ("你好", "你好"),
        ("您好", "您好"),
        ("你好呀", "你好"),
        ("你好啊", "你好"),
        ("你好你好", "你好"),
        ("嗨", "你好"),
        ("哈喽", "你好"),
        ("哈啰", "你好"),
        ("嘿", "你好"),
        ("喂", "你好"),
        ("在吗", "你好"),
        ("在不在", "你好"),
        ("有人吗", "你好"),
        ("早上好", "早上好"),
        ("早", "早上好"),
        ("早安", "早上好"),
        ("上午好", "上午好"),
        ("中午好", "中午好"),
        ("下午好", "下午好"),
        ("晚上好", "晚上好"),
        ("嗨，你好", "你好"),
        ("hello，你好", "你好"),
    ),
}
MARKS: dict[Language, tuple[str, ...]] = {
    "en": ("", "!", ".", "!!", " :)", "..."),
    "zh": ("", "！", "。", "～", "!", "!!"),
}
ASIDES: dict[Language, tuple[str, ...]] = {
    "en": (
        "",
        "",
        ", my friend",
        ", assistant",
        ", nice to meet you",
        ", it's me",
        ", are you there?",
        ", long time no see",
    ),
    "zh": (
        "",
        "",
        "，朋友",
        "，小助手",
        "，很高兴认识你",
        "，是我",
        "，在吗？",
        "，好久不见",
        "，初次见面",
        "，又见面了",
    ),
}
INTRODUCTIONS: dict[Language, tuple[str, ...]] = {
    "en": (
        ", I'm {name}",
        ", I am {name}",
        ", my name is {name}",
        ", this is {name}",
        ". {name} here",
        ", you can call me {name}",
    ),
    "zh": ("，我是{name}", "，我叫{name}", "，我的名字叫{name}", "，叫我{name}就好", "，我的名字是{name}"),
}
HOW_ARE_YOU: dict[Language, tuple[str, ...]] = {
    "en": (", how are you?", ", how are you doing?", ". How are you today?", ", how is it going?", ", what's up?"),
    "zh": ("，你好吗？", "，最近怎么样？", "，今天过得怎么样？", "，最近好吗？", "，今天好吗？"),
}
REPLIES: dict[tuple[Language, Style], tuple[str, ...]] = {
    ("en", "plain"): ("{hello}! How can I help you?", "{hello}! How can I help you today?"),
    ("en", "name"): ("{hello}, {name}! Nice to meet you. How can I help you?",),
    ("en", "how"): ("{hello}! I am fine, thank you. How are you?",),
    ("zh", "plain"): ("{hello}！有什么可以帮你的吗？", "{hello}！很高兴为你提供帮助。"),
    ("zh", "name"): ("{hello}，{name}！很高兴认识你。有什么可以帮你的吗？",),
    ("zh", "how"): ("{hello}！我很好，谢谢。你呢？",),
}


def utterance(rng: random.Random, split: Split, language: Language, style: Style) -> tuple[str, str, str]:
    """A greeting whose wording belongs to `split`; the opening to give back; the name said in it, if any."""
    name = person(rng, split, language) if style == "name" else ""
    hello = ""

    def make(r: random.Random) -> str:
        nonlocal hello
        opener, hello = r.choice(OPENERS[language])
        if style == "name":
            return opener + r.choice(INTRODUCTIONS[language]).format(name=name) + r.choice(MARKS[language][:3])
        if style == "how":
            return opener + r.choice(HOW_ARE_YOU[language])
        aside = r.choice(ASIDES[language])
        return opener + aside + ("" if aside.endswith(("?", "？")) else r.choice(MARKS[language]))

    text = draw(rng, split, make)
    return text, hello, name


def talk(rng: random.Random, split: Split, language: Language) -> Talk:
    """A greeting and its answer; expects the language, and the name if one was said."""
    style: Style = rng.choice(("plain", "plain", "plain", "name", "how"))
    text, hello, name = utterance(rng, split, language, style)
    return one_turn(
        text, rng.choice(REPLIES[language, style]).format(hello=hello, name=name), f"{language} plain {name}"
    )
