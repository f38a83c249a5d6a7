"""The cost of an evaluation over its engine, in turns, because machines drift.

offline   the requests, made before, all at once through the engine: the ceiling
run       the same questions as `qwartet evaluate` asks them: tokenised, asked, graded, written
start     `qwartet evaluate` up to its first question, less a process that only loads the model

Offline and run are measured with and without worked examples. Each begins with an empty prefix cache.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qwartet.engine.blocking_reader import BlockingReader
from qwartet.engine.engine_thread import EngineThread, Prompt
from qwartet.engine.likelihood import likelihood_requests
from qwartet.errors import EngineFailedError
from qwartet.evaluate.answerers.engine import EngineAnswerer
from qwartet.evaluate.order import leaders_ahead
from qwartet.evaluate.overhead.questions import ChoiceTask, write_mmlu
from qwartet.evaluate.question import Question
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.llm import LLM

SHOTS = 5
NUM_MMLU = 14_042  # questions of the published test split
START_TIMEOUT_S = 900.0  # a large checkpoint is repacked at its first start
_LOAD = "import sys; from qwartet.llm import LLM; LLM(sys.argv[1]); print('loaded', flush=True)"
_POLL_S = 0.001

Log = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """What is asked, and how often."""

    model: Path
    questions: int = 1000
    rounds: int = 5
    starts: int = 3  # rounds of starting a process; 0 leaves them out
    seed: int = 0


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and of all cores."""

    wall_s: float
    cpu_s: float


def measure_evaluation(settings: EvaluationSettings, log: Log) -> dict[str, Any]:
    """Rounds of all ways and their medians, ready for JSON; EngineFailedError if a request or a process fails."""
    with LLM(settings.model) as llm:
        rounds = [_round(llm, settings, number, log) for number in range(settings.rounds + 1)][1:]  # one warms up
    starts = [_start(settings, number, log) for number in range(settings.starts)]
    report = _medians(rounds, "share", "cost_5_shot", "cpu_share", "cpu_cost_5_shot", "share_5_shot")
    return {
        "questions": settings.questions,
        **report,
        **_medians(starts, "added_s"),
        "rounds": rounds,
        "starts": starts,
    }


def _round(llm: LLM, settings: EvaluationSettings, number: int, log: Log) -> dict[str, float]:
    log(f"round {number} of {settings.rounds}" if number else "warming up")
    tasks = {shots: ChoiceTask(settings.questions, shots, settings.seed + number) for shots in (0, SHOTS)}
    ways: dict[str, Callable[[], Spent]] = {
        "offline": partial(_offline, llm, tasks[0]), "run": partial(_run, llm, tasks[0]),
        "run_5_shot": partial(_run, llm, tasks[SHOTS]), "offline_5_shot": partial(_offline, llm, tasks[SHOTS]),
    }  # fmt: skip
    spent: dict[str, Spent] = {}
    for name, way in reversed(ways.items()) if number % 2 else ways.items():
        EngineThread.of(llm.engine).call(llm.engine.forget_prefixes)
        gc.collect()
        spent[name] = way()
    return {
        **{f"{name}_s": spent[name].wall_s for name in ways},
        "share": spent["offline"].wall_s / spent["run"].wall_s,
        "cost_5_shot": spent["run_5_shot"].wall_s / spent["run"].wall_s,
        "cpu_share": spent["offline"].cpu_s / spent["run"].cpu_s,
        "cpu_cost_5_shot": spent["run_5_shot"].cpu_s / spent["run"].cpu_s,
        "share_5_shot": spent["offline_5_shot"].wall_s / spent["run_5_shot"].wall_s,
    }


def _timed(work: Callable[[], object]) -> Spent:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def _run(llm: LLM, task: ChoiceTask) -> Spent:
    with TemporaryDirectory() as directory:
        return _timed(lambda: _answered(run_task(task, EngineAnswerer(llm), RunSettings(Path(directory))).num_errors))


def _answered(num_errors: int) -> None:
    if num_errors:  # a comparison with less work would flatter
        raise EngineFailedError(f"{num_errors} questions failed; run qwartet evaluate with this model to see why")


def _offline(llm: LLM, task: ChoiceTask) -> Spent:
    questions = task.questions()
    order = leaders_ahead([question.prefix for question in questions])
    prompts = [prompt for index in order for prompt in _prompts(llm, questions[index])]

    def serve() -> None:
        with BlockingReader(EngineThread.of(llm.engine), only_ends=True) as reader:
            reader.submit(prompts)
            _answered(sum(added.request.error is not None for added in reader))

    return _timed(serve)


def _prompts(llm: LLM, question: Question) -> list[Prompt]:
    """The requests for the log-probabilities of a question's letters."""
    encode, asked = llm.tokenizer.encode, question.request
    pairs = [(encode(asked.prompt), encode(choice)) for choice in asked.choices]  # type: ignore[union-attr, arg-type]
    return [request.prompt for request in likelihood_requests(pairs)]


def _start(settings: EvaluationSettings, number: int, log: Log) -> dict[str, float]:
    """Seconds of a process up to its first question, and of one that only loads the model."""
    log(f"start {number + 1} of {settings.starts}")
    with TemporaryDirectory() as directory:
        data, out = Path(directory, "data"), Path(directory, "out")
        write_mmlu(data, NUM_MMLU, SHOTS)
        arguments = ("--tasks", "mmlu", "--shots", str(SHOTS), "--data", str(data), "--out", str(out))
        command = [sys.executable, "-m", "qwartet", "evaluate", str(settings.model), *arguments]
        first_question_s = _seconds_until(command, lambda: (out / "mmlu.jsonl").exists())
        marker = Path(directory, "loaded")
        with marker.open("w") as file:
            loaded_s = _seconds_until(
                [sys.executable, "-c", _LOAD, str(settings.model)], lambda: marker.stat().st_size > 0, stdout=file
            )
    return {"first_question_s": first_question_s, "loaded_s": loaded_s, "added_s": first_question_s - loaded_s}


def _seconds_until(command: Sequence[str], is_there: Callable[[], bool], **streams: Any) -> float:
    """From the start of a process to what `is_there` says; then the process is ended."""
    begun_s = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **streams)
    try:
        while not is_there():
            if process.poll() is not None and not is_there():
                raise EngineFailedError(f"the process ended early; run it by itself: {' '.join(command)}")
            if time.perf_counter() - begun_s > START_TIMEOUT_S:
                raise EngineFailedError(
                    f"nothing within {START_TIMEOUT_S:.0f} s; run it by itself: {' '.join(command)}"
                )
            time.sleep(_POLL_S)
        return time.perf_counter() - begun_s
    finally:
        process.kill()
        process.wait()


def _medians(rounds: Sequence[dict[str, float]], *names: str) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in rounds), 4) for name in names} if rounds else {}
