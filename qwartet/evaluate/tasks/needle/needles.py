"""Needles: a sentence with a secret, the question about it, and whether an answer holds the secret."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from random import Random

from qwartet.evaluate.filler.prose import Language

_PLACES = {
    "en": (
        "Harrow Point lighthouse", "Tamsin Street laundry", "Orrin Valley observatory", "Quillfeather museum",
        "Bellweather tram depot", "Saltmarsh pumping station", "Marrow Hill cable car", "Linden Quay warehouse",
        "Foxglove telegraph office", "Copperfield ice rink", "Redgrave swimming baths", "Umber Lane printing house",
    ),
    "zh": (
        "白沙角灯塔", "青石街洗衣坊", "云岭天文台", "羽毛笔博物馆", "铃铛巷电车场", "盐滩抽水站", "松岗缆车站",
        "柳岸仓库", "紫藤电报局", "铜锣滑冰场", "红枫游泳馆", "墨巷印刷厂",
    ),
}  # fmt: skip
_TEXTS = {
    "en": ("The secret number of the {place} is {secret}.", "What is the secret number of the {place}?"),
    "zh": ("{place}的秘密编号是{secret}。", "{place}的秘密编号是多少？"),
}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_INSTRUCTIONS = {"en": "Answer with the number alone.", "zh": "只回答这个编号。"}


@dataclass(frozen=True)
class Needle:
    """A sentence to hide, and what to ask about it."""

    text: str
    question: str
    answer: str


def made_needle(language: Language, number: int, hay: str = "") -> Needle:
    """One of our own; each number has a place and a secret of its own, which the hay does not contain."""
    draw = Random(number).random
    secret = ""
    while not secret or contains_word(hay, secret):
        secret = str(10_000 + int(draw() * 90_000))
    place = _PLACES[language][number % len(_PLACES[language])]
    text, question = (one.format(place=place, secret=secret) for one in _TEXTS[language])
    space = " " if language == "en" else ""
    return Needle(text, question + space + _INSTRUCTIONS[language], secret)


def contains_word(text: str, word: str) -> bool:
    """Whether a text contains a word or number as a whole, whatever its case and width.

    "1234" is in "1,234." and in "是1234。" but not in "12345" or "0.1234". Chinese words have no ends to look for.
    """
    text, word = _plain(text), _plain(word)
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        if not _goes_on(text[max(start - 2, 0) : start][::-1], word[0]) and not _goes_on(text[end : end + 2], word[-1]):
            return True
        start = text.find(word, start + 1)
    return False


def _plain(text: str) -> str:
    return _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())


def _goes_on(beside: str, edge: str) -> bool:
    """Whether the word goes on in the two characters beside it, the nearer first."""
    if not beside or _is_ideograph(edge) or _is_ideograph(beside[0]):
        return False
    if edge.isdigit() and beside[0] == "." and beside[1:2].isdigit():
        return True
    return beside[0].isalnum() or beside[0] == "_"


def _is_ideograph(char: str) -> bool:
    return "\u2e80" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7a3" or "\U00020000" <= char <= "\U0003ffff"
