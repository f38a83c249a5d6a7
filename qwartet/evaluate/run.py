"""Runs a task: asks what is not answered yet, grades as answers come, and sums up."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from qwartet.errors import SettingError
from qwartet.evaluate.answerer import Answerer
from qwartet.evaluate.order import leaders_ahead
from qwartet.evaluate.question import Answer, Chat, Choose, Figure, Question, Record, Task, Text
from qwartet.evaluate.run_file import RunFile
from qwartet.files import atomic_write
from qwartet.tokenizer.chatml import Message


@runtime_checkable
class GradingElsewhere(Protocol):
    """A task whose grades come from other processes, several at once; other grades are made where they are needed."""

    grading_threads: int


@dataclass(frozen=True)
class TaskResult:
    """What a run of a task came to."""

    task: str
    settings: dict[str, Any]
    figures: list[Figure]  # the main one first
    num_questions: int
    num_errors: int  # questions without an answer; they count as wrong
    file: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RunSettings:
    """Which questions of a task are asked, and where the run is kept."""

    directory: Path
    limit: int | None = None  # at most so many questions, chosen by `seed` and asked in the order of the data
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"--limit is {self.limit}; it must be at least 1")


def chosen_questions(task: Task, settings: RunSettings) -> list[Question]:
    """The questions of a run. SettingError where the task has none, or an id twice."""
    questions = list(task.questions())
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise SettingError(f"{task.name}: duplicate id {question.id!r:.80}; fix the data")
        seen.add(question.id)
    if not questions:
        raise SettingError(f"{task.name}: the data contains no questions")
    if settings.limit is not None and settings.limit < len(questions):
        kept = sorted(random.Random(settings.seed).sample(range(len(questions)), settings.limit))
        questions = [questions[index] for index in kept]
    return questions


def run_task(
    task: Task, answerer: Answerer, settings: RunSettings, on_done: Callable[[int, int], None] = lambda _done, _of: None
) -> TaskResult:
    """Answers and grades a task's questions, and writes DIRECTORY/TASK.jsonl; on_done is told how many are done.

    RequestError, before anything is asked, where the model cannot take the questions; errors of single questions are
    recorded. Whatever ends the run, what was graded before is kept, and the next run goes on from there.
    """
    questions = chosen_questions(task, settings)
    answerer.check(questions)
    what = {
        "task": task.name,
        "settings": task.settings,
        "limit": settings.limit,
        "seed": settings.seed if settings.limit is not None else None,
        "answerer": answerer.description,
    }
    file = RunFile.open(settings.directory / f"{task.name}.jsonl", what, overwrite=settings.overwrite)
    try:
        left = [question for question in questions if question.id not in file.records]
        on_done(len(questions) - len(left), len(questions))
        for number, record in enumerate(_graded(task, answerer, left), start=len(questions) - len(left) + 1):
            file.add(record)
            on_done(number, len(questions))
        records = file.complete([question.id for question in questions])
    finally:
        file.close()
    for name, content in task.files(records).items():
        with atomic_write(settings.directory / name) as temporary:
            temporary.write_bytes(content)
    num_errors = sum(record.error is not None for record in records)
    return TaskResult(task.name, task.settings, task.summarise(records), len(records), num_errors, str(file.path))


def _graded(task: Task, answerer: Answerer, questions: Sequence[Question]) -> Iterator[Record]:
    """Records as they are ready.

    A question that follows an answer is asked before all that wait, so that few exchanges are open at a time.
    """
    first = {question.id: question for question in questions}
    waiting = deque(questions[index] for index in leaders_ahead([question.prefix for question in questions]))
    num_threads = task.grading_threads if isinstance(task, GradingElsewhere) else 0
    grading: list[Future[Record | None]] = []
    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        try:
            while waiting or grading:
                with closing(_closable(answerer.answers(waiting))) as answers:
                    for question, answer in answers:
                        asked = task, first[question.id], question, answer, waiting
                        if num_threads:
                            grading.append(pool.submit(_record, *asked))
                            yield from _ready(grading, at_least_one=len(grading) > 4 * num_threads)
                        elif (record := _record(*asked)) is not None:
                            yield record
                while grading and not waiting:  # nothing is being answered
                    yield from _ready(grading, at_least_one=True)
        finally:
            for future in grading:
                future.cancel()


def _ready(grading: list[Future[Record | None]], *, at_least_one: bool) -> Iterator[Record]:
    """Takes out what is graded, and gives the records, in order."""
    wait(grading, None if at_least_one else 0, FIRST_COMPLETED)
    for future in [one for one in grading if one.done()]:
        grading.remove(future)
        if (record := future.result()) is not None:
            yield record


def _closable(answers: Iterator[tuple[Question, Answer]]) -> Any:
    """The iterator as something that can be closed, so that leaving early ends what the engine still answers."""
    return (one for one in answers) if not hasattr(answers, "close") else answers


def _record(task: Task, first: Question, question: Question, answer: Answer, waiting: deque[Question]) -> Record | None:
    """The record of a question, of which `first` was asked first; None where another was put into `waiting`."""
    answered: Any = answer.text
    if isinstance(question.request, Choose):
        answered = {"logprobs": list(answer.logprobs), "num_tokens": list(answer.num_tokens)}
    common = {"id": first.id, "group": first.group, "prompt": readable(first), "reference": first.reference}
    ends_exchange = question is not first and answer.finish_reason == "length"  # no room for more
    if answer.error is not None and not ends_exchange:
        return Record(**common, answer=answered, extracted=None, score=None, details={}, error=answer.error)
    grade = task.grade(question, answer)
    if isinstance(grade, Question):
        waiting.appendleft(grade)
        return None
    details = {**grade.details, **({} if answer.finish_reason == "stop" else {"finish_reason": answer.finish_reason})}
    answered = answered if grade.exchange is None else grade.exchange
    return Record(**common, answer=answered, extracted=grade.extracted, score=grade.score, details=details)


def readable(question: Question) -> Any:
    """What was asked, as JSON that a person can read."""
    asked = question.request
    if isinstance(asked, Chat):
        begun = [Message("assistant", asked.answer_start)] if asked.answer_start else []
        return [{"role": message.role, "content": message.content} for message in (*asked.messages, *begun)]
    if isinstance(asked, Choose):
        return {"prompt": _readable(asked.prompt), "choices": [_readable(choice) for choice in asked.choices]}
    return asked.prompt


def _readable(text: Text) -> str:
    return text if isinstance(text, str) else f"<{len(text)} tokens>"
