"""A run scores what is known, keeps what was answered, and goes on where it was stopped."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from qwartet.errors import SettingError
from qwartet.evaluate.question import Answer, Grade, Question
from qwartet.evaluate.run import RunSettings, chosen_questions, run_task
from qwartet.evaluate.run_file import read_run
from tests.evaluate.fake import CountingTask, FakeAnswerer, SumTask


def right_below(limit: int):
    return lambda question: question.reference if int(question.id.split("/")[1]) < limit else "no idea"


def test_known_answers_give_the_known_score(tmp_path: Path) -> None:
    result = run_task(SumTask(10), FakeAnswerer(right_below(7)), RunSettings(tmp_path))
    [accuracy] = result.figures
    assert (accuracy.value, accuracy.count, result.num_errors) == (70.0, 10, 0)
    assert 39 < accuracy.low < 41 and 89 < accuracy.high < 90  # Wilson's interval of 7 in 10


def test_lines_are_in_the_order_of_the_questions_whatever_the_order_of_answers(tmp_path: Path) -> None:
    run_task(SumTask(30), FakeAnswerer(right_below(30)), RunSettings(tmp_path / "a"))
    run_task(SumTask(30), FakeAnswerer(right_below(30)), RunSettings(tmp_path / "b"))
    _, records = read_run(tmp_path / "a" / "sums.jsonl")
    assert [record.id for record in records] == [f"sums/{n}" for n in range(30)]
    assert records[3].prompt == [{"role": "user", "content": "3 + 3"}] and records[3].answer == "6"
    assert (tmp_path / "a/sums.jsonl").read_bytes() == (tmp_path / "b/sums.jsonl").read_bytes()


def test_a_crash_loses_nothing_that_was_answered_before(tmp_path: Path) -> None:
    def fails_at_five(question):
        if question.id == "sums/5":
            raise KeyboardInterrupt
        return question.reference

    first = FakeAnswerer(fails_at_five)
    with pytest.raises(KeyboardInterrupt):
        run_task(SumTask(20), first, RunSettings(tmp_path))
    _, kept = read_run(tmp_path / "sums.jsonl")
    again = FakeAnswerer(right_below(20))
    result = run_task(SumTask(20), again, RunSettings(tmp_path))
    assert len(kept) == 14 and len(again.asked) == 6
    assert not {record.id for record in kept} & set(again.asked)
    assert result.figures[0].value == 100.0


def test_every_line_is_in_the_file_before_the_next_question_is_graded(tmp_path: Path) -> None:
    class Watching(SumTask):
        def grade(self, question, answer):
            _, kept = read_run(tmp_path / "sums.jsonl")
            seen.append(len(kept))
            return super().grade(question, answer)

    seen: list[int] = []
    run_task(Watching(9), FakeAnswerer(right_below(9)), RunSettings(tmp_path))
    assert seen == list(range(9))


def test_grades_from_other_processes_are_made_side_by_side(tmp_path: Path) -> None:
    class Elsewhere(SumTask):
        grading_threads = 3

        def grade(self, question, answer):
            together.wait(timeout=60)  # for two others
            return super().grade(question, answer)

    together = threading.Barrier(3)
    result = run_task(Elsewhere(9), FakeAnswerer(right_below(7)), RunSettings(tmp_path))
    assert result.figures[0].value == pytest.approx(700 / 9)


def test_the_lines_are_the_records_as_json_whatever_they_hold(tmp_path: Path) -> None:
    odd = {"sums/0": "\ud83d 你\n\u2028", "sums/2": '"\x00\\'}
    reply = lambda question: Answer(odd.get(question.id, "4"), finish_reason="length")  # noqa: E731
    run_task(SumTask(4), FakeAnswerer(reply), RunSettings(tmp_path))
    _, records = read_run(tmp_path / "sums.jsonl")
    lines = (tmp_path / "sums.jsonl").read_bytes().split(b"\n")[1:-1]
    plain = [json.dumps(asdict(record), ensure_ascii=False) for record in records]
    assert lines == [line.encode(errors="backslashreplace") for line in plain]
    assert [record.answer for record in records] == ["\ud83d 你\n\u2028", "4", '"\x00\\', "4"]


@pytest.mark.parametrize("num_before", [0, 1, 7, 20])
def test_a_run_that_was_resumed_has_the_bytes_of_one_that_was_not(tmp_path: Path, num_before: int) -> None:
    run_task(SumTask(20), FakeAnswerer(right_below(15)), RunSettings(tmp_path / "whole"))
    whole = (tmp_path / "whole" / "sums.jsonl").read_bytes()
    head, *lines = whole.splitlines(keepends=True)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "sums.jsonl").write_bytes(head + b"".join(reversed(lines[:num_before])) + b'{"id": "su')
    run_task(SumTask(20), FakeAnswerer(right_below(15)), RunSettings(tmp_path / "part"))
    assert (tmp_path / "part" / "sums.jsonl").read_bytes() == whole


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    run_task(SumTask(5), FakeAnswerer(right_below(5)), RunSettings(tmp_path))
    file = tmp_path / "sums.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    again = FakeAnswerer(right_below(5))
    assert run_task(SumTask(5), again, RunSettings(tmp_path)).num_questions == 5
    assert again.asked == ["sums/4"]


def test_a_failed_question_counts_as_wrong_and_is_asked_again(tmp_path: Path) -> None:
    reply = lambda question: Answer(error="the cache is full") if question.id == "sums/1" else question.reference  # noqa: E731
    result = run_task(SumTask(4), FakeAnswerer(reply), RunSettings(tmp_path))
    assert (result.figures[0].value, result.num_errors) == (75.0, 1)
    again = FakeAnswerer(right_below(4))
    assert run_task(SumTask(4), again, RunSettings(tmp_path)).figures[0].value == 100.0
    assert again.asked == ["sums/1"]


@pytest.mark.parametrize(
    ("task", "model", "difference"),
    [
        (SumTask(5, shots=5), "fake", "settings.shots was 0 and is 5"),
        (SumTask(5), "other", "answerer.model was 'fake'"),
    ],
)
def test_a_file_of_another_run_is_not_taken_up(tmp_path: Path, task: SumTask, model: str, difference: str) -> None:
    run_task(SumTask(5), FakeAnswerer(right_below(5)), RunSettings(tmp_path))
    before = (tmp_path / "sums.jsonl").read_bytes()
    with pytest.raises(SettingError, match=difference):
        run_task(task, FakeAnswerer(right_below(5), model), RunSettings(tmp_path))
    assert (tmp_path / "sums.jsonl").read_bytes() == before
    run_task(task, FakeAnswerer(right_below(5), model), RunSettings(tmp_path, overwrite=True))
    assert (tmp_path / "sums.jsonl").read_bytes() != before


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text("notes of mine\n")
    with pytest.raises(SettingError, match="not a run"):
        run_task(SumTask(5), FakeAnswerer(right_below(5)), RunSettings(tmp_path))
    assert (tmp_path / "sums.jsonl").read_text() == "notes of mine\n"


def test_a_limit_chooses_by_seed_in_the_order_of_the_data() -> None:
    def ids(seed: int) -> list[str]:
        return [one.id for one in chosen_questions(SumTask(100), RunSettings(Path(), limit=10, seed=seed))]

    assert len(ids(0)) == 10 and ids(0) == ids(0) != ids(1)
    assert ids(0) == sorted(ids(0), key=lambda one: int(one.split("/")[1]))
    with pytest.raises(SettingError, match="at least 1"):
        RunSettings(Path(), limit=0)


def test_an_id_that_comes_twice_and_an_empty_task_are_refused(tmp_path: Path) -> None:
    class Twice(SumTask):
        def questions(self):
            return super().questions() * 2

    with pytest.raises(SettingError, match="duplicate id 'sums/0'"):
        run_task(Twice(3), FakeAnswerer(right_below(3)), RunSettings(tmp_path))
    with pytest.raises(SettingError, match="no question"):
        run_task(SumTask(0), FakeAnswerer(right_below(3)), RunSettings(tmp_path))


def test_progress_tells_how_many_of_how_many(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run_task(SumTask(6), FakeAnswerer(right_below(6)), RunSettings(tmp_path), lambda done, of: told.append((done, of)))
    assert told == [(n, 6) for n in range(7)]


def test_the_first_line_says_what_was_run(tmp_path: Path) -> None:
    run_task(SumTask(3), FakeAnswerer(right_below(3)), RunSettings(tmp_path, limit=2, seed=7))
    first = json.loads((tmp_path / "sums.jsonl").read_text().splitlines()[0])["run"]
    assert first == {
        "task": "sums", "settings": {"shots": 0}, "limit": 2, "seed": 7, "answerer": {"model": "fake"},
    }  # fmt: skip


def by_turn(question: Question) -> str:
    """What is wrong, until the last turn."""
    turns = len(question.so_far or ())
    return question.reference if turns == int(question.reference) // 2 % 4 else f"wait {turns}"


def test_an_exchange_is_one_record_whatever_the_turns(tmp_path: Path) -> None:
    answerer = FakeAnswerer(by_turn)
    result = run_task(CountingTask(8), answerer, RunSettings(tmp_path))
    assert (result.figures[0].value, result.num_questions, result.num_errors) == (100.0, 8, 0)
    assert {one: answerer.asked.count(one) for one in answerer.asked} == {f"sums/{n}": n % 4 + 1 for n in range(8)}
    _, records = read_run(tmp_path / "counting.jsonl")
    assert [record.answer for record in records[:4]] == ["0", "wait 0|2", "wait 0|wait 1|4", "wait 0|wait 1|wait 2|6"]
    assert records[3].prompt == [{"role": "user", "content": "3 + 3"}], "the question as it was asked first"


def test_an_answerer_that_runs_dry_is_asked_again(tmp_path: Path) -> None:
    """Grading takes longer than answering: each turn follows when the answerer has nothing left."""

    class Slow(CountingTask):
        def grade(self, question, answer):
            time.sleep(0.02)
            return super().grade(question, answer)

    assert run_task(Slow(9), FakeAnswerer(by_turn), RunSettings(tmp_path)).figures[0].value == 100.0


def test_what_follows_an_answer_is_asked_before_all_that_waits(tmp_path: Path) -> None:
    """Few exchanges are open at a time, so that little is lost when a run is stopped."""
    open_ids: list[int] = []

    class Patient(FakeAnswerer):
        def answers(self, waiting):
            while waiting:
                question = waiting.popleft()
                self.asked.append(question.id)
                open_ids.append(len({one for one in self.asked if one not in ended}))
                yield question, Answer(self._reply(question))
                time.sleep(0.01)  # the grading ends meanwhile

    class Noted(CountingTask):
        def grade(self, question, answer):
            grade = super().grade(question, answer)
            if not isinstance(grade, Question):
                ended.add(question.id)
            return grade

    ended: set[str] = set()
    run_task(Noted(40), Patient(by_turn), RunSettings(tmp_path))
    assert len(open_ids) == 40 + 10 * (1 + 2 + 3) and max(open_ids) <= 4


def test_a_run_that_ends_within_an_exchange_asks_it_again_from_its_beginning(tmp_path: Path) -> None:
    def stops(question: Question) -> str:
        if question.id == "sums/3" and len(question.so_far or ()) == 2:
            raise KeyboardInterrupt
        return by_turn(question)

    with pytest.raises(KeyboardInterrupt):
        run_task(CountingTask(12), FakeAnswerer(stops), RunSettings(tmp_path))
    _, kept = read_run(tmp_path / "counting.jsonl")
    assert 0 < len(kept) < 12 and "sums/3" not in {record.id for record in kept}
    again = FakeAnswerer(by_turn)
    assert run_task(CountingTask(12), again, RunSettings(tmp_path)).figures[0].value == 100.0
    assert again.asked.count("sums/3") == 4 and not {record.id for record in kept} & set(again.asked)
    run_task(CountingTask(12), FakeAnswerer(by_turn), RunSettings(tmp_path / "whole"))
    assert (tmp_path / "counting.jsonl").read_bytes() == (tmp_path / "whole/counting.jsonl").read_bytes()


def test_a_turn_that_does_not_fit_ends_its_exchange(tmp_path: Path) -> None:
    """A question that does not fit is an error; one that follows leaves what was answered before."""

    def full(question: Question) -> Answer:
        if question.id in ("sums/2", "sums/4") and (question.id == "sums/4") == (question.so_far is None):
            return Answer(error="too long", finish_reason="length")
        return Answer(by_turn(question))

    class Ending(CountingTask):
        def grade(self, question, answer):
            if answer.error:
                return Grade(None, 0.0, exchange="|".join(question.so_far))
            return super().grade(question, answer)

    result = run_task(Ending(6), FakeAnswerer(full), RunSettings(tmp_path))
    assert result.num_errors == 1
    _, records = read_run(tmp_path / "counting.jsonl")
    assert (records[2].answer, records[2].score, records[2].error) == ("wait 0", 0.0, None)
    assert records[2].details == {"finish_reason": "length"}
    assert (records[4].score, records[4].error) == (None, "too long")


def test_a_turn_that_fails_is_an_error_of_the_question(tmp_path: Path) -> None:
    def fails(question: Question) -> Answer:
        lost = question.id == "sums/2" and question.so_far is not None
        return Answer(error="the server is gone", finish_reason="error") if lost else Answer(by_turn(question))

    assert run_task(CountingTask(4), FakeAnswerer(fails), RunSettings(tmp_path)).num_errors == 1
    again = FakeAnswerer(by_turn)
    assert run_task(CountingTask(4), again, RunSettings(tmp_path)).figures[0].value == 100.0
    assert again.asked == ["sums/2"] * 3
