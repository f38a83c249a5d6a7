"""Whether an answer is correct, by kind of conversation; every function takes the expectation and the reply."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from qwartet.tokenizer.react_stream import parse_react
from recipes.demo.corpus.conversation import Language
from recipes.demo.corpus.persona_lines import PERSONAS

HELLO: dict[Language, str] = {
    "en": r"\b(?:hello|hi|good (?:morning|afternoon|evening))\b",
    "zh": r"[你您]好|[早上午中下晚]好",
}


def language_of(reply: str) -> Language:
    """Chinese if there is a Chinese character in it, else English."""
    return "zh" if re.search(r"[\u4e00-\u9fff]", reply) else "en"


def in_voice(expect: str, reply: str) -> bool:
    """Expects "LANGUAGE PERSONA [NAME]": the language, the persona's mark (for plain: a greeting), and the name."""
    language, persona, *name = expect.split(" ", 2)
    if language != language_of(reply):
        return False
    spoken: Language = "zh" if language == "zh" else "en"
    mark = HELLO[spoken] if persona == "plain" else PERSONAS[persona].mark[spoken]
    return re.search(mark, reply, re.IGNORECASE) is not None and all(part in reply for part in name)


def has_mark(expect: str, reply: str) -> bool:
    """Expects "LANGUAGE PERSONA": the persona's mark; a fact that it states may be in either language."""
    language, persona = expect.split(" ")
    return re.search(PERSONAS[persona].mark["zh" if language == "zh" else "en"], reply, re.IGNORECASE) is not None


def in_language(expect: str, reply: str) -> bool:
    """Expects "LANGUAGE PERSONA": an answer in the language, whatever it says."""
    return bool(reply.strip()) and language_of(reply) == expect.split(" ")[0]


def holds_value(expect: str, reply: str) -> bool:
    """Expects a value: it is in the reply, and not as part of a longer number or word."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(expect)}(?![A-Za-z0-9])", reply, re.IGNORECASE) is not None


def last_number(expect: str, reply: str) -> bool:
    """Expects a number: the last one of the reply; a minus sign counts unless it is a subtraction."""
    numbers = re.findall(r"(?<![\d)] )(?<![\d)])-?\d+|\d+", reply)
    return bool(numbers) and numbers[-1] == expect


def letter(expect: str, reply: str) -> bool:
    """Expects a letter from A to H: the first that stands alone."""
    found = re.search(r"(?<![A-Za-z])[A-H](?![A-Za-z])", reply)
    return found is not None and found[0] == expect


def same_text(expect: str, reply: str) -> bool:
    """Expects the text itself."""
    return reply.strip() == expect


def tool_call(expect: str, reply: str) -> bool:
    """Expects "NAME ARGUMENTS": a call that parses, of that tool, with equal JSON arguments."""
    name, arguments = expect.split(" ", 1)
    called = parse_react(reply)
    if called.name != name:
        return False
    try:
        return bool(json.loads(called.arguments) == json.loads(arguments))
    except ValueError:
        return False


def final_answer(expect: str, reply: str) -> bool:
    """Expects the final answer, and no call."""
    parsed = parse_react(reply, "thought")  # the thought has already begun if a tool has answered
    return not parsed.is_call and parsed.text == expect


SCORES: dict[str, Callable[[str, str], bool]] = {
    "greeting": in_voice,
    "persona greeting": in_voice,
    "persona switched": has_mark,
    "persona name": holds_value,
    "persona language": in_language,
    "arithmetic": last_number,
    "choice": letter,
    "option lookup": letter,
    "knowledge": holds_value,
    "retrieval": holds_value,
    "long retrieval": holds_value,
    "memory": holds_value,
    "repeat": same_text,
    "smalltalk": same_text,
    "unknown": same_text,
    "too hard": same_text,
    "compliment": same_text,
    "react call": tool_call,
    "react final": final_answer,
    "react answer": final_answer,
}
