"""How fast a server answers many requests over HTTP: any that speaks OpenAI's API, so that servers can be compared.

open load     a request is sent when it is due, whatever happened to earlier ones, and its times count from then: a
              server or client that falls behind cannot hide it by sending fewer requests
closed load   a fixed number of requests at any time; the next is sent when one ends, and its times count from then
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwartet.bench.http_client import BrokenAnswerError, HttpClient
from qwartet.bench.openai_api import Dialect, Prompt, StreamReader, message_of
from qwartet.bench.request_times import RequestTimes, load_report, percentiles_ms
from qwartet.errors import SettingError

BUSY_CLIENT = 0.8  # of a core: above it the client itself may limit what it measures
GOODPUT_LIMITS = ("ttft", "tpot", "e2e")


@dataclass
class Attempt(RequestTimes):
    """One request to the server; its arrival is when it was due."""

    sent_s: float = 0.0  # its preparation begins
    written_s: float = 0.0  # it is sent, on an open connection
    ended_s: float = 0.0
    num_prompt_tokens: int = 0
    is_counted: bool = False  # the server reported its tokens
    kind: str = ""  # of its error; empty for one that was answered
    error: str = ""

    def meets(self, limits_ms: dict[str, float]) -> bool:
        """Whether it was answered within these limits; a single token has no TPOT to miss."""
        if self.kind:
            return False
        found = {"ttft": self.ttft_s, "tpot": self.tpot_s or 0.0, "e2e": self.e2e_s}
        return all(1000 * found[name] <= limit for name, limit in limits_ms.items())


@dataclass(frozen=True)
class Load:
    """The prompts, and when they are sent: at `arrivals_s`, or `concurrency` of them at any time."""

    prompts: Sequence[Prompt]
    max_tokens: int
    arrivals_s: Sequence[float] = ()
    concurrency: int | None = None
    timeout_s: float = 600.0  # for a complete answer


@dataclass(frozen=True)
class ServingRun:
    """The results of a load."""

    load: Load
    attempts: list[Attempt]
    client_cpu: float  # of a core, while it ran
    remarks: list[str] = field(default_factory=list)

    @property
    def answered(self) -> list[Attempt]:
        return [one for one in self.attempts if not one.kind]

    @property
    def seconds(self) -> float:
        """From the first arrival to the end of the last."""
        return max(one.ended_s for one in self.attempts) - min(one.arrival_s for one in self.attempts)

    @property
    def output_tok_s(self) -> float:
        return sum(one.num_tokens for one in self.answered) / self.seconds

    def to_dict(self, goodput_ms: dict[str, float]) -> dict[str, Any]:
        """Plain values, ready for JSON; figures are of the requests that were answered."""
        answered, seconds = self.answered, self.seconds
        num_prompt_tokens = sum(one.num_prompt_tokens for one in answered)
        report = load_report(answered, seconds, num_prompt_tokens)
        report["prompt_tokens"] = num_prompt_tokens
        report["errors"] = dict(Counter(one.kind for one in self.attempts if one.kind))
        report["first_error"] = next((one.error for one in self.attempts if one.kind), "")
        if goodput_ms:
            num_good = sum(one.meets(goodput_ms) for one in self.attempts)
            report["goodput"] = {
                "limits_ms": goodput_ms,
                "share": round(num_good / len(self.attempts), 4),
                "requests_s": round(num_good / seconds, 4),
            }
        report["sent_late_ms"] = percentiles_ms([one.sent_s - one.arrival_s for one in self.attempts])
        report["client_cpu"] = round(self.client_cpu, 3)
        report["remarks"] = [*self.remarks, *self._own_remarks(answered)]
        return report

    def _own_remarks(self, answered: list[Attempt]) -> list[str]:
        found = []
        num_short = sum(one.num_tokens < self.load.max_tokens for one in answered)
        if num_short:
            found.append(f"{num_short} answers were shorter than the requested {self.load.max_tokens} tokens")
        if not all(one.is_counted for one in answered):
            found.append("some answers had no usage: their tokens were counted as chunks")
        if self.client_cpu > BUSY_CLIENT:
            found.append(f"this client used {self.client_cpu:.0%} of a core and may limit the figures; reduce the load")
        return found


def parse_goodput(text: str) -> dict[str, float]:
    """ "ttft=500,tpot=50" to milliseconds by name; SettingError for anything else."""
    limits = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            limits[""] = 0.0
    if any(name not in GOODPUT_LIMITS or not value > 0 for name, value in limits.items()):
        known = ", ".join(GOODPUT_LIMITS)
        raise SettingError(f"goodput is {text!r:.80}; set limits in ms on some of {known}, such as ttft=500,tpot=50")
    return limits


async def measure(client: HttpClient, dialect: Dialect, load: Load) -> ServingRun:
    """Sends a load to a server; what fails is counted, not raised."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()

    async def send(place: int, arrival_s: float) -> Attempt:
        return await _attempt(client, dialect, load, place, arrival_s, start_s)

    def now() -> float:
        return time.perf_counter() - start_s

    if load.concurrency is None:
        attempts = await send_when_due(send, load.arrivals_s, now)
    else:
        attempts = await send_in_turn(send, len(load.prompts), load.concurrency, now)
    client_cpu = (time.process_time() - start_cpu_s) / now()
    return ServingRun(load, attempts, client_cpu, dialect.remarks())


Send = Callable[[int, float], Coroutine[Any, Any, Attempt]]  # a prompt's index, and when it is due


async def send_when_due(
    send: Send,
    arrivals_s: Sequence[float],
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> list[Attempt]:
    """An open load; `now`: seconds after the start, `arrivals_s` ascend."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        for place, arrival_s in enumerate(arrivals_s):
            while (wait_s := arrival_s - now()) > 0:
                await sleep(wait_s)
            tasks.append(group.create_task(send(place, arrival_s)))
    return [task.result() for task in tasks]


async def send_in_turn(send: Send, count: int, concurrency: int, now: Callable[[], float]) -> list[Attempt]:
    """A closed load."""
    attempts: list[Attempt] = []
    places = iter(range(count))

    async def work() -> None:
        for place in places:
            attempts.append(await send(place, now()))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return attempts


async def _attempt(
    client: HttpClient, dialect: Dialect, load: Load, place: int, arrival_s: float, start_s: float
) -> Attempt:
    attempt = Attempt(arrival_s)
    heard = StreamReader(attempt, start_s)
    body = dialect.body(load.prompts[place], load.max_tokens)
    attempt.sent_s = time.perf_counter() - start_s
    try:
        async with asyncio.timeout(load.timeout_s):
            answer = await client.post(dialect.path, body, heard.take)
        attempt.written_s = answer.written_s - start_s
        if not answer.is_ok:
            attempt.kind, attempt.error = f"http {answer.status}", message_of(answer)
    except TimeoutError:
        attempt.kind, attempt.error = "timeout", f"no complete answer within {load.timeout_s:g} s"
    except BrokenAnswerError as error:
        attempt.kind, attempt.error = "cut", str(error)
    except OSError as error:
        attempt.kind, attempt.error = "no connection", str(error)
    attempt.ended_s = time.perf_counter() - start_s
    heard.end()
    attempt.num_prompt_tokens, attempt.is_counted = heard.num_prompt_tokens, heard.num_usage_tokens is not None
    if not attempt.kind and heard.error is not None:
        attempt.kind, attempt.error = heard.kind, heard.error
    return attempt
