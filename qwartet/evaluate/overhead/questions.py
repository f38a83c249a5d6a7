"""Made-up multiple-choice questions, as short as those the bundled model was trained on: a task, and MMLU's files."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwartet.evaluate.extraction.choices import LETTERS
from qwartet.evaluate.figures import share
from qwartet.evaluate.question import Answer, Choose, Figure, Grade, Question, Record
from qwartet.evaluate.tasks.mmlu import SUBJECTS
from qwartet.evaluate.tasks.multiple_choice import Item

NUM_SUBJECTS = 20
_OFF_BY = (-20, -11, -10, -9, -3, -2, -1, 1, 2, 3, 9, 10, 11, 20)


def make_items(count: int, seed: str) -> list[Item]:
    """Sums, differences, and the largest or smallest of four numbers; the same seed gives the same items."""
    rng = random.Random(seed)
    return [_item(rng, str(number)) for number in range(count)]


def _item(rng: random.Random, number: str) -> Item:
    kind = rng.choice(("sum", "difference", "largest", "smallest"))
    first, second = rng.randrange(100), rng.randrange(100)
    if kind in ("sum", "difference"):
        sign, right = ("+", first + second) if kind == "sum" else ("-", first - second)
        text, wrong = f"What is {first} {sign} {second}?", [right + step for step in rng.sample(_OFF_BY, 3)]
    else:
        numbers = rng.sample(range(100), 4)
        right = max(numbers) if kind == "largest" else min(numbers)
        text, wrong = f"Which number is the {kind}?", [one for one in numbers if one != right]
    options = [right, *wrong]
    rng.shuffle(options)
    texts = dict(zip(LETTERS, map(str, options), strict=True))
    return Item(text, texts, LETTERS[options.index(right)], number)


class ChoiceTask:
    """Questions in MMLU's format whose most probable letter counts, with or without worked examples."""

    name = "choices"

    def __init__(self, num_questions: int, shots: int, seed: int) -> None:
        self.settings: dict[str, Any] = {"shots": shots, "seed": seed}
        count = -(-num_questions // NUM_SUBJECTS)
        self._items = {
            subject: (make_items(shots, f"{seed} {subject} examples"), make_items(count, f"{seed} {subject}"))
            for subject in SUBJECTS[:NUM_SUBJECTS]
        }

    def questions(self) -> list[Question]:
        choices = tuple(f" {letter}" for letter in LETTERS)
        found = []
        for subject, (examples, items) in self._items.items():
            about = subject.replace("_", " ")
            beginning = f"The following are multiple choice questions (with answers) about {about}.\n\n"
            beginning += "".join(f"{_text(item)} {item.answer}\n\n" for item in examples)
            for item in items:
                asked = Choose(beginning + _text(item), choices)
                found.append(Question(f"{subject}/{item.number}", subject, asked, item.answer, beginning))
        return found

    def grade(self, question: Question, answer: Answer) -> Grade:
        found = LETTERS[max(range(len(LETTERS)), key=lambda index: answer.logprobs[index])]
        return Grade(found, float(found == question.reference))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        return [share("accuracy", records)]

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}


def _text(item: Item) -> str:
    options = "".join(f"\n{letter}. {text}" for letter, text in item.options.items())
    return f"Question: {item.question}{options}\nAnswer:"


def write_mmlu(directory: Path, num_questions: int, shots: int) -> None:
    """Files in the layout of MMLU's archive, with at least so many questions in all."""
    for split, count in (("dev", shots), ("test", -(-num_questions // len(SUBJECTS)))):
        (directory / split).mkdir(parents=True)
        for subject in SUBJECTS:
            path = directory / split / f"{subject}_{split}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                items = make_items(count, f"{split} {subject}")
                csv.writer(file).writerows((item.question, *item.options.values(), item.answer) for item in items)
