"""`qwartet bench serving`: any server that speaks OpenAI's API, under load."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet.cli.bench.figures import print_figures
from qwartet.cli.extras import require
from qwartet.cli.options import JsonLine
from qwartet.errors import SettingError

if TYPE_CHECKING:
    from qwartet.bench.serving import ServingRun


def serving(
    url: Annotated[str, typer.Argument(help="Where the server is: http://127.0.0.1:8000, with or without /v1.")],
    api_key: Annotated[
        str | None, typer.Option(envvar="QWARTET_API_KEY", show_envvar=True, help="What the server wants.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Its name there.", show_default="the first that is listed")] = None,
    endpoint: Annotated[
        Literal["chat", "completions"], typer.Option(help="completions: prompts are token ids, where it takes them.")
    ] = "chat",
    requests: Annotated[int, typer.Option(help="How many.")] = 32,
    prompt: Annotated[int, typer.Option(help="Tokens of each prompt; in texts about as many.")] = 128,
    generate: Annotated[int, typer.Option(help="Tokens that each writes.")] = 64,
    shared_prefix: Annotated[int, typer.Option(help="Tokens that all prompts begin with.")] = 0,
    arrivals: Annotated[
        Literal["poisson", "fixed", "all"], typer.Option(help="At random, evenly spaced, or all at once.")
    ] = "poisson",
    rate: Annotated[float, typer.Option(help="Requests a second, for poisson and fixed.")] = 1.0,
    concurrency: Annotated[
        int | None, typer.Option(help="Instead: so many at any time, the next when one has ended.")
    ] = None,
    goodput: Annotated[str, typer.Option(help="Limits in ms, of ttft, tpot, e2e: ttft=500,tpot=50.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for an answer as a whole.")] = 600.0,
    nice: Annotated[int, typer.Option(help="Give way to others on this machine: 10, if the server is here too.")] = 0,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    as_json: JsonLine = False,
) -> None:
    """Measure a server under load.

    It reports time to first token, time between tokens, tokens per second, errors and goodput. Requests are sent when
    they are due, whether or not earlier ones have finished, and times count from then.
    """
    require("server", "qwartet bench serving", "h11")
    if min(requests, generate) < 1 or prompt < 2 or not timeout > 0:
        raise SettingError("requests, generate and timeout must be at least 1, prompt at least 2")
    if concurrency is not None and concurrency < 1:
        raise SettingError(f"concurrency is {concurrency}; it must be at least 1")
    if not 0 <= nice <= 19:
        raise SettingError(f"nice is {nice}; it must lie in 0..19")
    import asyncio  # 20 ms, which --help need not wait for

    from qwartet.bench.http_client import HttpClient
    from qwartet.bench.openai_api import probe
    from qwartet.bench.serving import Load, measure, parse_goodput
    from qwartet.bench.workload import COMMON_IDS, arrival_times, make_prompts, make_texts

    limits_ms = parse_goodput(goodput)
    texts = make_texts(requests, prompt, shared=shared_prefix, seed=seed)
    ids = make_prompts("random", requests, prompt, generate, COMMON_IDS, shared=shared_prefix, seed=seed)
    arrivals_s = [] if concurrency is not None else arrival_times(arrivals, requests, rate, seed)

    async def run() -> ServingRun:
        async with HttpClient(url, {} if api_key is None else {"authorization": f"Bearer {api_key}"}) as client:
            dialect = await probe(client, endpoint, model)
            prompts: list[Any] = ids if dialect.takes_ids else texts
            return await measure(client, dialect, Load(prompts, generate, arrivals_s, concurrency, timeout))

    os.nice(nice)
    report = asyncio.run(run()).to_dict(limits_ms)
    report |= {
        "endpoint": endpoint, "prompt": prompt, "generate": generate, "shared_prefix": shared_prefix,
        "arrivals": f"{concurrency} at any time" if concurrency else arrivals, "rate": rate, "seed": seed,
    }  # fmt: skip
    print_figures(report, as_json, _remark_lines(report))
    if len(report["errors"]) and not report["requests"]:
        raise typer.Exit(1)


def _remark_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{count} failed: {kind}" for kind, count in report["errors"].items()]
    if report["first_error"]:
        lines.append(f"the first error: {report['first_error']}")
    if "goodput" in report:
        good = report["goodput"]
        limits = ", ".join(f"{name} <= {limit:g} ms" for name, limit in good["limits_ms"].items())
        lines.append(f"goodput ({limits}): {good['share']:.1%} of all, {good['requests_s']:,} requests a second")
    return lines + [f"note: {remark}" for remark in report["remarks"]]
