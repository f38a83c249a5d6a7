"""A task and an answerer whose answers are known, so that the known score must come out of the whole path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from qwartet.evaluate.figures import share
from qwartet.evaluate.question import Answer, Chat, Figure, Grade, Question, Record
from qwartet.tokenizer.chatml import Message


class SumTask:
    """n + n = ?"""

    name = "sums"

    def __init__(self, count: int = 10, shots: int = 0) -> None:
        self.settings: dict[str, Any] = {"shots": shots}
        self._count = count

    def questions(self) -> list[Question]:
        return [
            Question(f"sums/{n}", "even" if n % 2 == 0 else "odd", Chat((Message("user", f"{n} + {n}"),)), str(2 * n))
            for n in range(self._count)
        ]

    def grade(self, question: Question, answer: Answer) -> Grade:
        return Grade(answer.text.strip(), float(answer.text.strip() == question.reference))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        return [share("accuracy", records)]

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}


class CountingTask(SumTask):
    """n + n = ?, of which the answer is asked for in pieces: question n takes n % 4 further turns, each with a note."""

    name = "counting"

    def grade(self, question: Question, answer: Answer) -> Grade | Question:
        so_far = (*(question.so_far or ()), answer.text)
        if len(so_far) > int(question.reference) // 2 % 4:
            return Grade(answer.text, float(answer.text.strip() == question.reference), exchange="|".join(so_far))
        begun = f"{question.request.answer_start}{answer.text} ({len(so_far)})\n"
        return replace(question, request=replace(question.request, answer_start=begun), so_far=so_far)


class FakeAnswerer:
    """Answers with a function of the question, from the last question to the first; `asked` lists their ids."""

    def __init__(self, reply: Callable[[Question], str | Answer], model: str = "fake") -> None:
        self._reply = reply
        self.description = {"model": model}
        self.asked: list[str] = []
        self.tokenizer = None
        self.is_chat = True

    def check(self, questions: Sequence[Question]) -> None:
        pass

    def answers(self, waiting: deque[Question]) -> Iterator[tuple[Question, Answer]]:
        while waiting:
            question = waiting.pop()
            self.asked.append(question.id)
            reply = self._reply(question)
            yield question, reply if isinstance(reply, Answer) else Answer(reply)

    def close(self) -> None:
        pass
