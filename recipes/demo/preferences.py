"""Pairs of answers for the last stage of training: what the model gets wrong after learning from answers alone.

    persona    after plain turns a persona is asked for: its voice, not the plain one or another's
    choice     the letter of the right option, not of another
    unknown    that it does not know, not an answer to another question

Prompts are of the training split (corpus/split.py). The same seed gives the same file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from recipes.demo.corpus import choice, greetings, knowledge, personas, smalltalk, unknown
from recipes.demo.corpus.conversation import LANGUAGES, Conversation, Language, conversation
from recipes.demo.corpus.persona_lines import PERSONAS

Pair = tuple[Conversation, str]
"""A conversation with the chosen answer, and the rejected answer."""


def persona(rng: random.Random, language: Language) -> Pair:
    """The rejected voice is the plain one, or another persona's at times; a fact is the same without the voice."""
    asked = personas.switched(rng, "train", language)
    spoken: Language = "zh" if asked.expect.startswith("zh") else "en"
    name, answer = asked.expect.split(" ")[1], asked.messages[-1].content
    other = PERSONAS[rng.choice([known for known in PERSONAS if known != name])]
    for kind in ("greet", "how", "who", "thanks", "bye"):
        if answer in getattr(PERSONAS[name], kind)[spoken]:
            lines = getattr(other, kind)[spoken] if rng.random() < 0.3 else _plain_lines(kind, spoken)
            return asked, rng.choice(lines)
    before, after = PERSONAS[name].wrap[spoken].split("{a}")
    return asked, answer.removeprefix(before).removesuffix(after) + ("。" if spoken == "zh" else ".")


def _plain_lines(kind: str, language: Language) -> tuple[str, ...]:
    if kind == "greet":
        hello = {"en": "Hello", "zh": "你好"}[language]
        return tuple(line.format(hello=hello) for line in greetings.REPLIES[language, "plain"])
    return smalltalk.INTENTS[language][kind][1]


def option(rng: random.Random, language: Language) -> Pair:
    """The rejected answer is another option of the question."""
    talk = choice.talk(rng, "train", language)
    asked, answer = talk.turns[-1]
    options = choice.options_of(asked)
    wrong = rng.choice([letter for letter in choice.LETTERS if letter != talk.expect])
    return conversation("choice", talk), wrong if answer == talk.expect else f"{wrong}. {options[wrong]}"


def not_known(rng: random.Random, language: Language) -> Pair:
    """The rejected answer is one to a question that the model can answer."""
    other = knowledge.talk(rng, "train", language).turns[0][1]
    return conversation("unknown", unknown.talk(rng, "train", language)), other


KINDS: dict[Callable[[random.Random, Language], Pair], int] = {persona: 4, option: 5, not_known: 1}


def write_pairs(path: Path, count: int, seed: int) -> None:
    """`count` pairs as JSON lines that `qwartet finetune --objective dpo` reads."""
    rng = random.Random(f"pairs {seed}")
    lines = []
    while len(lines) < count:
        make = rng.choices(list(KINDS), list(KINDS.values()))[0]
        asked, rejected = make(rng, rng.choice(LANGUAGES))
        *prompt, answer = asked.messages
        if answer.content == rejected:
            continue
        turns = [{"role": message.role, "content": message.content} for message in prompt]
        entry = {"id": f"{asked.kind} {len(lines)}", "prompt": turns, "chosen": answer.content, "rejected": rejected}
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
