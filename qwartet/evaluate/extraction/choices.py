"""The letter that an answer to a multiple-choice question chooses, as the published scripts find it.

The patterns are the protocol: they are those of eval/evaluate_chat_ceval.py and eval/evaluate_chat_mmlu.py of the Qwen
repository. Each list is tried in order, and the first pattern that matches anywhere decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from qwartet.errors import SettingError

LETTERS = ("A", "B", "C", "D")

_CHINESE = tuple(
    re.compile(pattern)
    for pattern in (
        # 答案是A, 选项是A, 应该选A选项
        r"(?:(?:选|选择|选定)[：:]?\s*|(?:(?:答案|选项)(?![^ABCD]{0,10}?(?:不|非)[^ABCD]{0,10}?(?:是|选|为|：|:|】))"
        r"[^ABCD]{0,10}?(?:是|选|为|：|:|】))[^ABCD]{0,10}?)(A|B|C|D)(?:选项)?(?:\)|。|\.|，|,|．|、|A|B|C|D|$|：|:|\)|）)",
        # A选项正确, A选项符合题意
        r"(A|B|C|D)(?:选?项)?(?![^ABCD]{0,4}?(?:不|非)[^ABCD]{0,4}?(?:正确|对[的，。：]|符合))"
        r"[^ABCD]{0,4}?(?:正确|对[的，。：]|符合)",
        r"^[\(（]?(A|B|C|D)(?:。|\)|）|\.|，|,|．|：|:|$)",  # A
        r"(?<![a-zA-Z])(A|B|C|D)(?![a-zA-Z=])",  # the first lone letter
    )
)
_ENGLISH = tuple(
    re.compile(pattern)
    for pattern in (
        # answer is A, choice is A, choose A
        r"(?:(?:[Cc]hoose)|(?:(?:[Aa]nswer|[Cc]hoice)(?![^ABCD]{0,20}?(?:n't|not))[^ABCD]{0,10}?\b(?:|is|:|be))\b)"
        r"[^ABCD]{0,20}?\b(A|B|C|D)\b",
        # A is correct, A is right
        r"\b(A|B|C|D)\b(?![^ABCD]{0,8}?(?:n't|not)[^ABCD]{0,5}?(?:correct|right))[^ABCD]{0,10}?\b(?:correct|right)\b",
        r"^(A|B|C|D)(?:\.|,|:|$)",
        r"(?<![a-zA-Z])(A|B|C|D)(?![a-zA-Z=])",
    )
)


def chinese_choice(answer: str, question: str, options: Mapping[str, str]) -> str:
    """The letter that an answer to a C-Eval question chooses; `options` are the texts by letter.

    Without a letter it is the option whose text is nearest. SettingError without thefuzz, which decides that.
    """
    clauses = question.rstrip("。").split("。")[-1].split("_")
    if len(clauses[0].strip()) > 4:
        answer = answer.replace(clauses[0], "答案是")
    if len(clauses[-1].strip()) > 4:
        answer = answer.replace(clauses[-1], "")
    for letter, text in _longest_first(options):
        answer = answer.replace(text.rstrip("。"), letter)
    return _first_match(_CHINESE, answer) or _nearest(answer, options)


def english_choice(answer: str, options: Mapping[str, str]) -> str:
    """The letter that an answer to an MMLU question chooses; see `chinese_choice`."""
    for letter, text in _longest_first(options):
        answer = re.sub(re.escape(text.rstrip(".")), letter, answer, flags=re.IGNORECASE)
    return _first_match(_ENGLISH, answer) or _nearest(answer, options)


def _longest_first(options: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(options.items(), key=lambda item: len(item[1]), reverse=True)


def _first_match(patterns: Sequence[re.Pattern[str]], answer: str) -> str | None:
    for pattern in patterns:
        if match := pattern.search(answer):
            return match[1]
    return None


def _nearest(answer: str, options: Mapping[str, str]) -> str:
    try:
        from thefuzz import process
    except ImportError:
        raise SettingError(
            "matching answers without a letter needs thefuzz; install it: pip install 'qwartet[evaluate]'"
        ) from None
    texts = list(options.values())
    return list(options)[texts.index(process.extractOne(answer, texts)[0])]
