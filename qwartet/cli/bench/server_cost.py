"""`qwartet bench server-cost`: the overhead of the server over its engine."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qwartet.cli.bench.figures import log, print_figures
from qwartet.cli.extras import require
from qwartet.cli.options import JsonLine, Threads, set_threads
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve


def server_cost(
    model: Annotated[str, typer.Argument(help="Checkpoint directory or hub id, with its vocabulary.")],
    measure: Annotated[
        Literal["latency", "throughput", "health"],
        typer.Option(help="latency: one stream; throughput: many; health: delay of /health during a prefill."),
    ] = "latency",
    prompt: Annotated[int, typer.Option(help="Tokens per prompt.")] = 128,
    generate: Annotated[int, typer.Option(help="Tokens to generate per request.")] = 64,
    streams: Annotated[int, typer.Option(help="Concurrent requests, for throughput.")] = 16,
    rounds: Annotated[int, typer.Option(help="Rounds, in which server and engine take turns.")] = 5,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Random seed of the prompts.")] = 0,
    as_json: JsonLine = False,
) -> None:
    """Measure the overhead of the server over its engine.

    A server and the engine alone take turns. With as many threads as cores, server and client take time from the
    kernels; a smaller --threads leaves them a core.
    """
    require("server", "qwartet bench server-cost", "fastapi", "h11")
    if min(rounds, streams) < 1 or min(prompt, generate) < 2:
        raise SettingError("rounds and streams must be at least 1, prompt and generate at least 2")
    set_threads(threads)
    from qwartet.bench.server_cost import CostSettings, measure_cost

    settings = CostSettings(str(resolve(model)), prompt, generate, streams, rounds, threads, seed)
    report = {"measure": measure, **measure_cost(measure, settings, log)}
    report |= {"prompt": prompt, "generate": generate, "threads": threads}
    print_figures(report, as_json)
