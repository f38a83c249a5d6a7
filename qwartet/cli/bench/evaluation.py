"""`qwartet bench evaluation`: the overhead of an evaluation over its engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from qwartet import DEMO
from qwartet.cli.bench.figures import log, print_figures
from qwartet.cli.options import JsonLine, ModelArgument, Threads, set_threads
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve


def evaluation(
    model: ModelArgument = None,
    questions: Annotated[int, typer.Option(help="Multiple-choice questions, of 20 subjects.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Rounds, in which evaluation and engine take turns.")] = 5,
    starts: Annotated[int, typer.Option(help="Rounds of starting qwartet evaluate; 0: none.")] = 3,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Random seed of the questions.")] = 0,
    as_json: JsonLine = False,
) -> None:
    """Measure the overhead of an evaluation over its engine.

    Made-up multiple-choice questions, with and without worked examples, are evaluated and given to the engine alone, in
    turns.
    """
    if min(questions, rounds) < 1 or starts < 0:
        raise SettingError("questions and rounds must be at least 1, starts at least 0")
    set_threads(threads)
    from qwartet.evaluate.overhead.measure import EvaluationSettings, measure_evaluation

    directory = DEMO if model is None else resolve(model)
    report = measure_evaluation(EvaluationSettings(directory, questions, rounds, starts, seed), log)
    print_figures({**report, "threads": threads}, as_json, list(_verdicts(report)))


def _verdicts(report: dict[str, Any]) -> Iterator[str]:
    """A line for each target."""
    from qwartet.bench.targets import EVALUATION_TARGETS

    for target in EVALUATION_TARGETS:
        value = target.value(report)
        if value is not None:
            verdict = "reaches" if target.is_reached(value) else "misses"
            yield f"{target.what}: {target.shown(value)}; {verdict} the target of {target.shown(target.wanted)}"
