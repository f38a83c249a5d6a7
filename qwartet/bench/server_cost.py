"""The overhead of our server over its engine, alternating (A B B A) because machines drift.

latency      one request at a time: TTFT and time per token over HTTP     against the engine alone, the same prompt
throughput   many requests at once: tokens a second over HTTP             against the engine alone, the same prompts
health       how fast /health is answered                                 while the server reads a long prompt

The server is a process of its own; the engine alone runs in this one, as does the client, whose CPU use is reported.
Over HTTP a token is seen when its text is, so the engine's tokens are timed by their text too.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from qwartet.bench.http_client import HttpClient
from qwartet.bench.openai_api import Dialect, probe
from qwartet.bench.request_times import percentiles_ms
from qwartet.bench.server_process import server_process
from qwartet.bench.serving import Attempt, Load, ServingRun, measure
from qwartet.bench.throughput import ServedRequest, serve
from qwartet.bench.workload import COMMON_IDS, make_prompts
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import EngineFailedError, RequestError
from qwartet.llm import LLM

Cost = Literal["latency", "throughput", "health"]
Log = Callable[[str], None]
T = TypeVar("T")

CLIENT_NICENESS = 10  # of the client with many streams, which would otherwise take time from the server
HEALTH_INTERVAL_S = 0.02


@dataclass(frozen=True)
class CostSettings:
    """What is served, and how often."""

    model: str
    prompt: int = 128  # tokens
    generate: int = 64
    streams: int = 16  # at once, in `throughput`
    rounds: int = 5
    threads: int | None = None  # of the server; the caller sets those of this process
    seed: int = 0

    @property
    def context(self) -> int:
        return self.prompt + self.generate + 1

    def prompts(self, count: int, round_number: int) -> list[list[int]]:
        """Prompts that no earlier round used."""
        seed = 1000 * self.seed + round_number
        return make_prompts("random", count, self.prompt, self.generate, COMMON_IDS, shared=0, seed=seed)

    def server_options(self, num_seqs: int, context: int) -> list[str]:
        options = ["--speculation", "off", "--max-num-seqs", str(num_seqs), "--max-model-len", str(context), "--no-ui"]
        return options if self.threads is None else [*options, "--threads", str(self.threads)]


def measure_cost(kind: Cost, settings: CostSettings, log: Log) -> dict[str, Any]:
    """Rounds of both ways and their medians, ready for JSON; EngineFailedError if a request fails."""
    return {"latency": _latency, "throughput": _throughput, "health": _health}[kind](settings, log)


def _latency(settings: CostSettings, log: Log) -> dict[str, Any]:
    def once(
        number: int, http: Callable[[], ServingRun], engine: Callable[[], list[ServedRequest]]
    ) -> dict[str, float]:
        run, alone = _in_turns(number, http, engine)
        (served,), (only,) = run.attempts, alone
        if len(only.text_s) < 2:
            raise RequestError("the model wrote fewer than two pieces of text; use one whose vocabulary fits it")
        num_later = settings.generate - 1
        over_http = _latency_ms(served.output_s, served.written_s, num_later)
        by_engine = _latency_ms(only.text_s, only.arrival_s, num_later)
        return {
            **{f"http_{name}": value for name, value in over_http.items()},
            **{f"engine_{name}": value for name, value in by_engine.items()},
            **{f"added_{name}": over_http[name] - by_engine[name] for name in over_http},
            "client_ms_per_token": 1000 * run.client_cpu * run.seconds / settings.generate,
        }

    rounds = _rounds(settings, 1, 0, log, once)
    return {**_medians(rounds, "added_ttft_ms", "added_ms_per_token", "client_ms_per_token"), "rounds": rounds}


def _latency_ms(text_s: Sequence[float], begun_s: float, num_later: int) -> dict[str, float]:
    """Of one request; `text_s`: when its text arrived, `begun_s`: when its preparation ended, `num_later`: tokens after
    the first."""
    return {
        "ttft_ms": 1000 * (text_s[0] - begun_s),
        "ms_per_token": 1000 * (text_s[-1] - text_s[0]) / num_later,
    }


def _throughput(settings: CostSettings, log: Log) -> dict[str, Any]:
    def once(
        number: int, http: Callable[[], ServingRun], engine: Callable[[], list[ServedRequest]]
    ) -> dict[str, float]:
        run, alone = _in_turns(number, http, engine)
        offline_tok_s = sum(one.num_tokens for one in alone) / max(one.output_s[-1] for one in alone)
        return {
            "http_tok_s": run.output_tok_s, "engine_tok_s": offline_tok_s, "share": run.output_tok_s / offline_tok_s,
            "client_cpu": run.client_cpu,
        }  # fmt: skip

    rounds = _rounds(settings, settings.streams, CLIENT_NICENESS, log, once)
    return {"streams": settings.streams, **_medians(rounds, "share", "client_cpu"), "rounds": rounds}


def _health(settings: CostSettings, log: Log) -> dict[str, Any]:
    async def poll(client: HttpClient, until: asyncio.Task[ServingRun]) -> list[float]:
        """Seconds of each answer, from when its request was due."""
        found, due_s = [], time.perf_counter()
        while not until.done():
            if not (await client.get("/health")).is_ok:
                raise EngineFailedError("/health failed; start the server by hand to see why")
            found.append(time.perf_counter() - due_s)
            due_s += HEALTH_INTERVAL_S
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
        return found

    async def run(url: str, prompt: list[int]) -> tuple[float, list[float]]:
        async with HttpClient(url) as client:
            dialect = await probe(client, "completions", None)
            reading = asyncio.create_task(measure(client, dialect, Load([prompt], 2, concurrency=1)))
            seconds = await poll(client, reading)
            return _answered(await reading)[0].ttft_s, seconds

    options = settings.server_options(2, settings.context)
    with server_process(settings.model, options) as url:
        log(f"/health every {1000 * HEALTH_INTERVAL_S:g} ms while {settings.prompt:,} tokens are read")
        ttft_s, seconds = asyncio.run(run(url, settings.prompts(1, 0)[0]))
    health_ms = {**percentiles_ms(seconds), "max": round(1000 * max(seconds), 3)}
    return {"health_ms": health_ms, "asked": len(seconds), "prefill_s": round(ttft_s, 3)}


InClient = Callable[[Coroutine[Any, Any, Any]], Any]
Once = Callable[[int, Callable[[], ServingRun], Callable[[], list[ServedRequest]]], dict[str, float]]


def _rounds(settings: CostSettings, num_requests: int, niceness: int, log: Log, once: Once) -> list[dict[str, float]]:
    """The results of `once` for each round after a warm-up; it is passed the functions that run either way."""
    engine = LLM(settings.model, speculation="off", max_num_seqs=num_requests, max_model_len=settings.context)
    params = engine.sampling_params(temperature=0, max_tokens=settings.generate, ignore_eos=True)
    found = []
    with (
        server_process(settings.model, settings.server_options(num_requests, settings.context)) as url,
        _client_thread(niceness) as client,
    ):
        dialect = client(_probe(url))
        for number in range(settings.rounds + 1):
            log(f"round {number} of {settings.rounds}" if number else "warming up")
            prompts = settings.prompts(num_requests, number)
            found.append(once(
                number,
                partial(_over_http, client, url, dialect, prompts, settings.generate),
                partial(_engine_alone, engine, prompts, params),
            ))  # fmt: skip
    return found[1:]


def _in_turns(number: int, first: Callable[[], T], second: Callable[[], Any]) -> tuple[T, Any]:
    """Both, in reverse order in every second round."""
    if number % 2:
        return first(), second()
    later = second()
    return first(), later


def _engine_alone(llm: LLM, prompts: Sequence[list[int]], params: SamplingParams) -> list[ServedRequest]:
    return serve(llm.engine, prompts, params, [0.0] * len(prompts)).times


async def _probe(url: str) -> Dialect:
    async with HttpClient(url) as client:
        return await probe(client, "completions", None)


def _over_http(
    run_in_client: InClient, url: str, dialect: Dialect, prompts: Sequence[list[int]], generate: int
) -> ServingRun:
    """All prompts at once, on connections already open, as clients keep them."""

    async def serve_all() -> ServingRun:
        async with HttpClient(url) as client:
            await asyncio.gather(*(client.get("/health/live") for _ in prompts))
            return await measure(client, dialect, Load(prompts, generate, [0.0] * len(prompts)))

    run: ServingRun = run_in_client(serve_all())
    _answered(run)
    return run


def _answered(run: ServingRun) -> list[Attempt]:
    """The requests, none of which may have failed: a comparison with less work would flatter."""
    for one in run.attempts:
        if one.kind:
            raise EngineFailedError(f"a request failed ({one.kind}: {one.error}); start the server by hand to see why")
    return run.attempts


@contextmanager
def _client_thread(niceness: int) -> Iterator[InClient]:
    """Runs a coroutine in a thread of lower priority; a separate one, since niceness cannot be reset."""
    with ThreadPoolExecutor(1, initializer=lambda: _give_way(niceness)) as pool:
        yield lambda work: pool.submit(asyncio.run, work).result()


def _give_way(niceness: int) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def _medians(rounds: Sequence[dict[str, float]], *names: str) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in rounds), 4) for name in names}
