"""`qwartet bench serving`: any OpenAI-compatible server, under load."""

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
    url: Annotated[str, typer.Argument(help="Address of the server: http://127.0.0.1:8000, with or without /v1.")],
    api_key: Annotated[
        str | None, typer.Option(envvar="QWARTET_API_KEY", show_envvar=True, help="API key of the server.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model on the server.", show_default="its first")
    ] = None,
    endpoint: Annotated[
        Literal["chat", "completions"],
        typer.Option(help="completions: send prompts as token ids, if the server accepts them."),
    ] = "chat",
    requests: Annotated[int, typer.Option(help="Number of requests.")] = 32,
    prompt: Annotated[int, typer.Option(help="Tokens per prompt, approximate if sent as text.")] = 128,
    generate: Annotated[int, typer.Option(help="Tokens to generate per request.")] = 64,
    shared_prefix: Annotated[int, typer.Option(help="Tokens of a prefix that all prompts share.")] = 0,
    arrivals: Annotated[
        Literal["poisson", "fixed", "all"],
        typer.Option(help="When requests arrive: at random, evenly spaced, or all at once."),
    ] = "poisson",
    rate: Annotated[float, typer.Option(help="Requests per second, for poisson and fixed.")] = 1.0,
    concurrency: Annotated[
        int | None, typer.Option(help="Keep this many requests running, instead of --arrivals.")
    ] = None,
    goodput: Annotated[str, typer.Option(help="Limits in ms for ttft, tpot and e2e, such as ttft=500,tpot=50.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds allowed for a complete answer.")] = 600.0,
    nice: Annotated[int, typer.Option(help="Niceness of this process; 10 if the server runs on this machine.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed of prompts and arrivals.")] = 0,
    as_json: JsonLine = False,
) -> None:
    """Measure an OpenAI-compatible server under load.

    It reports time to first token, time between tokens, tokens per second, errors and goodput. Requests are sent when
    they are due, whether or not earlier ones have finished, and times count from then.
    """
    require("server", "qwartet bench serving", "h11")
    if min(requests, generate) < 1 or prompt < 2 or not timeout > 0:
        raise SettingError("requests, generate and timeout must be at least 1, prompt at least 2")
    if concurrency is not None and concurrency < 1:
        raise SettingError(f"concurrency is {concurrency}; it must be at least 1")
    if not 0 <= nice <= 19:
        raise SettingError(f"nice is {nice}; it must be between 0 and 19")
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
        lines.append(f"first error: {report['first_error']}")
    if "goodput" in report:
        good = report["goodput"]
        limits = ", ".join(f"{name} <= {limit:g} ms" for name, limit in good["limits_ms"].items())
        lines.append(f"goodput ({limits}): {good['share']:.1%} of all, {good['requests_s']:,} requests/s")
    return [*lines, *(f"note: {remark}" for remark in report["remarks"])]
