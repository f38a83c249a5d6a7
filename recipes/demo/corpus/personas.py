"""Talks under a system prompt that asks for something: a voice, a language, or a person with a name.

The users are the same and say the same; only the persona that answers differs.
"""

from __future__ import annotations

import random

from recipes.demo.corpus import arithmetic, greetings, knowledge, smalltalk
from recipes.demo.corpus.conversation import LANGUAGES, Conversation, Language, Talk, Turn, conversation
from recipes.demo.corpus.names import person, town
from recipes.demo.corpus.persona_lines import PERSONAS, Persona
from recipes.demo.corpus.split import Split
from recipes.demo.corpus.split import draw as draw_kept
from recipes.demo.corpus.values import word
from recipes.demo.corpus.words import ADJECTIVES, JOBS, a, side

ROLE_FRAMES: dict[Language, tuple[str, ...]] = {
    "en": (
        "You are {x}.",
        "You are {x}. Stay in your role.",
        "Talk like {x}.",
        "Speak like {x}.",
        "Pretend to be {x}.",
        "Act as {x}.",
        "Please answer as {x}.",
        "From now on you are {x}.",
        "Play the role of {x}.",
    ),
    "zh": (
        "你是{x}。",
        "请扮演{x}",
        "请扮演{x}和我说话。",
        "假装你是{x}。",
        "你现在是{x}",
        "请像{x}一样说话",
        "请像{x}一样回答。",
        "从现在起你是{x}。",
        "用{x}的身份和我聊天",
    ),
}
STYLE_FRAMES: dict[Language, tuple[str, ...]] = {
    "en": (
        "Speak in {a_x} tone.",
        "Talk to me in {a_x} way.",
        "Please use {a_x} tone.",
        "Answer in {a_x} style.",
        "Please talk to me in {a_x} tone",
        "Your style is {x}.",
    ),
    "zh": (
        "请用{x}语气和我说话",
        "请用{x}语气跟我说话。",
        "请用{x}的语气和我聊天",
        "用{x}的风格回答。",
        "请用{x}风格和我说话",
        "你说话要用{x}的语气",
        "用{x}语气回答我的问题。",
    ),
}
NAMED: dict[Language, tuple[str, ...]] = {
    "en": (
        "You are {name}, {role}.",
        "Your name is {name}. You are {role}.",
        "You play {name}, {role}.",
        "Act as {name}, {role}.",
    ),
    "zh": ("你是{name}，{role}。", "你叫{name}，是{role}。", "你的名字是{name}，{role}。", "请扮演{name}，{role}。"),
}
IN_LANGUAGE: dict[Language, tuple[str, ...]] = {
    "en": (
        "Always answer in English.",
        "Please answer in English.",
        "Answer in English only.",
        "请用英文回答。",
        "只用英语回答",
        "你只会说英文。",
    ),
    "zh": (
        "Always answer in Chinese.",
        "Please answer in Chinese.",
        "Answer in Chinese only.",
        "请用中文回答。",
        "只用中文回答",
        "你只会说中文。",
    ),
}


def system_prompt(rng: random.Random, split: Split, persona: Persona) -> str:
    """A way of asking for a persona, in either language, whose wording belongs to `split`."""

    def make(r: random.Random) -> str:
        language = r.choice(LANGUAGES)
        if r.random() < 0.5:
            return r.choice(ROLE_FRAMES[language]).format(x=r.choice(persona.roles[language]))
        style = r.choice(persona.styles[language])
        return r.choice(STYLE_FRAMES[language]).format(x=style, a_x=a(style)).replace("的的", "的")

    return draw_kept(rng, split, make)


def turn(rng: random.Random, split: Split, language: Language, persona: Persona) -> Turn:
    """A line of small talk, a sum or a question of knowledge, and the persona's answer."""
    intent = rng.choice(("how", "who", "thanks", "bye", "fact"))
    if intent == "fact":
        asked, answered = rng.choice((arithmetic, knowledge)).talk(rng, split, language).turns[0]
        return asked, persona.wrap[language].format(a=answered.rstrip(".。"))
    lines: tuple[str, ...] = getattr(persona, intent)[language]
    return smalltalk.question(rng, language, intent), rng.choice(lines)


def voice(rng: random.Random, split: Split, language: Language) -> Conversation:
    """A greeting in a persona's voice, or up to three turns; expects language and persona."""
    name = rng.choice(list(PERSONAS))
    persona = PERSONAS[name]
    text, _, _ = greetings.utterance(rng, split, language, "plain")
    greeting = (text, rng.choice(persona.greet[language]))
    if rng.random() < 0.5:
        talk = Talk((greeting,), f"{language} {name}")
        return conversation("persona greeting", talk, system_prompt(rng, split, persona))
    turns = tuple(turn(rng, split, language, persona) for _ in range(rng.choice((1, 1, 2))))
    talk = Talk((greeting, *turns) if rng.random() < 0.4 else turns, f"{language} {name}")
    return conversation("persona", talk, system_prompt(rng, split, persona))


def switched(rng: random.Random, split: Split, language: Language) -> Conversation:
    """A voice that is asked for after plain turns, which stay as they were; expects language and persona."""
    name = rng.choice(list(PERSONAS))
    persona = PERSONAS[name]
    before: list[Turn] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        make = rng.choice((greetings, smalltalk, smalltalk, arithmetic, knowledge))
        before += make.talk(rng, split, rng.choice((language, language, *LANGUAGES))).turns
    if rng.random() < 0.4:
        last = (greetings.utterance(rng, split, language, "plain")[0], rng.choice(persona.greet[language]))
    else:
        last = turn(rng, split, language, persona)
    talk = Talk((*before, last), f"{language} {name}")
    system = system_prompt(rng, split, persona)
    return conversation("persona switched", talk, system, num_unlabelled=len(before))


def named(rng: random.Random, split: Split, language: Language) -> Conversation:
    """A person with a name and a job, who says so when greeted or asked; expects the name."""
    name = person(rng, split, language)
    adjective, job = rng.choice(side(ADJECTIVES, language)), word(rng, split, JOBS, language)
    place = town(rng, split, language)
    if language == "en":
        role = a(f"{adjective} {job}") + rng.choice(("", f" from {place}"))
        hello, say = f"Hello! I am {name}, {role}. How can I help you?", f"I am {name}, {role}."
    else:
        role = rng.choice((f"一位{adjective}的{job}", f"来自{place}的{job}"))
        hello, say = f"你好！我是{name}，{role}。有什么可以帮你的吗？", f"我是{name}，{role}。"
    turns: list[Turn] = []
    if rng.random() < 0.5:
        turns.append((greetings.utterance(rng, split, language, "plain")[0], hello))
    if not turns or rng.random() < 0.4:
        turns.append((smalltalk.question(rng, language, "who"), say))
    system = rng.choice(NAMED[language]).format(name=name, role=role)
    return conversation("persona name", Talk(tuple(turns), name), system)


def other_language(rng: random.Random, split: Split, language: Language) -> Conversation:
    """The user speaks one language and the system prompt asks for `language`; expects the language."""
    spoken = rng.choice(LANGUAGES)
    turns: list[Turn] = []
    if rng.random() < 0.6:
        text, _, _ = greetings.utterance(rng, split, spoken, "plain")
        hello = {"en": "Hello", "zh": "你好"}[language]
        turns.append((text, rng.choice(greetings.REPLIES[language, "plain"]).format(hello=hello)))
    if not turns or rng.random() < 0.3:
        intent = rng.choice(list(smalltalk.INTENTS[spoken]))
        answer = rng.choice(smalltalk.INTENTS[language][intent][1])
        turns.append((smalltalk.question(rng, spoken, intent), answer))
    return conversation("persona language", Talk(tuple(turns), f"{language} plain"), rng.choice(IN_LANGUAGE[language]))


def draw(rng: random.Random, split: Split, language: Language) -> Conversation:
    """Any of the above."""
    make = rng.choices((voice, named, other_language, switched), weights=(6, 3, 1.5, 4))[0]
    return make(rng, split, language)
