"""The client that measures servers: times count from when a request was due, and no failure is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from qwartet import DEMO, LLM
from qwartet.bench.http_client import BrokenAnswerError, HttpClient
from qwartet.bench.openai_api import Dialect, StreamReader, probe
from qwartet.bench.request_times import RequestTimes
from qwartet.bench.serving import Attempt, Load, ServingRun, measure, parse_goodput, send_in_turn, send_when_due
from qwartet.bench.workload import make_texts
from qwartet.cli.main import run
from qwartet.errors import SettingError
from tests.server.running_server import RunningServer
from tests.test_architecture import heavy_modules_after

CHAT = Dialect("m", "chat")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(value: Any) -> bytes:
    """One event of a stream, in a chunk of its own."""
    data = b"data: %b\n\n" % (value if isinstance(value, bytes) else json.dumps(value).encode())
    return b"%x\r\n%b\r\n" % (len(data), data)


def text(content: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}}]}


def usage(completion: int, prompt: int = 7) -> dict[str, Any]:
    return {"choices": [], "usage": {"completion_tokens": completion, "prompt_tokens": prompt}}


def stream(*events: Any) -> bytes:
    """A whole stream."""
    return HEAD + b"".join(map(event, events)) + event(b"[DONE]") + b"0\r\n\r\n"


def answer(status: int, value: Any) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status, len(body), body
    )  # fmt: skip


Script = Callable[[str, Any, Callable[[bytes], None]], Awaitable[None]]  # path, body, what sends


class ScriptedServer:
    """A server in the test's event loop; the script answers, and a connection where it raises is cut."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.num_connections = 0

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                (length,) = [int(line.split(":")[1]) for line in head if line.startswith("content-length:")]
                body = await reader.readexactly(length)
                await self._script(head[0].split(" ")[1], json.loads(body) if body else None, writer.write)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def measured(script: Script, load: Load, dialect: Dialect = CHAT) -> ServingRun:
    async def main() -> ServingRun:
        async with ScriptedServer(script) as server, HttpClient(server.url) as client:
            return await measure(client, dialect, load)

    return asyncio.run(main())


def says(raw: bytes) -> Script:
    """A script that answers everything alike."""

    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        send(raw)

    return script


# When requests are sent


class Clock:
    def __init__(self, overshoot_s: float = 0.0) -> None:
        self.now_s, self._overshoot_s = 0.0, overshoot_s

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds + self._overshoot_s
        await asyncio.sleep(0)


def test_an_open_load_waits_for_no_answer() -> None:
    clock, sent = Clock(), []

    async def main() -> list[Attempt]:
        all_sent = asyncio.Event()

        async def send(place: int, arrival_s: float) -> Attempt:
            sent.append(place)
            if len(sent) == 3:
                all_sent.set()
            await all_sent.wait()  # nothing is answered before
            return Attempt(arrival_s)

        return await asyncio.wait_for(send_when_due(send, [0.0, 1.0, 5.0], clock.now, clock.sleep), 30)

    assert [one.arrival_s for one in asyncio.run(main())] == [0.0, 1.0, 5.0] and sent == [0, 1, 2]
    assert clock.now_s == 5.0


def test_a_client_that_is_late_counts_from_when_the_request_was_due() -> None:
    clock = Clock(overshoot_s=3.0)

    async def send(place: int, arrival_s: float) -> Attempt:
        return Attempt(arrival_s, sent_s=clock.now())

    found = asyncio.run(send_when_due(send, [1.0, 2.0, 10.0], clock.now, clock.sleep))
    assert [one.arrival_s for one in found] == [1.0, 2.0, 10.0]
    assert found[0].sent_s >= 4.0 and found[1].sent_s >= 4.0


def test_a_closed_load_has_so_many_at_any_time() -> None:
    open_now, most = 0, 0

    async def send(place: int, arrival_s: float) -> Attempt:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0)
        open_now -= 1
        return Attempt(arrival_s)

    assert len(asyncio.run(send_in_turn(send, 10, 3, lambda: 0.0))) == 10
    assert most == 3


# What the times come to


def attempt(ttft_s: float, tpot_s: float, num_tokens: int = 11, arrival_s: float = 0.0) -> Attempt:
    first_s = arrival_s + ttft_s
    times = [first_s + place * tpot_s for place in range(num_tokens)]
    return Attempt(arrival_s, times, num_tokens, ended_s=times[-1], is_counted=True)


def test_percentiles_and_rates_are_those_of_the_requests_that_were_answered() -> None:
    attempts = [attempt(0.1 * place, 0.01) for place in range(1, 11)]
    attempts.append(Attempt(0.0, ended_s=0.2, kind="http 503", error="full"))
    report = ServingRun(Load([], 11), attempts, client_cpu=0.1).to_dict({})
    assert report["ttft_ms"] == {"p50": 500.0, "p90": 900.0, "p99": 1000.0}
    assert report["tpot_ms"]["p99"] == pytest.approx(10) and report["e2e_ms"]["p99"] == pytest.approx(1100)
    assert (report["requests"], report["seconds"], report["output_tok_s"]) == (10, 1.1, 100.0)
    assert (report["errors"], report["first_error"], report["remarks"]) == ({"http 503": 1}, "full", [])


def test_goodput_is_of_all_requests_and_wants_every_limit_met() -> None:
    attempts = [
        attempt(0.1, 0.01), attempt(0.9, 0.01), attempt(0.1, 0.09), attempt(0.1, 0.0, num_tokens=1),
        Attempt(0.0, kind="cut"),
    ]  # fmt: skip
    report = ServingRun(Load([], 1), attempts, client_cpu=0.1).to_dict(parse_goodput("ttft=500,tpot=50"))
    assert report["goodput"]["share"] == 0.4  # the first and the fourth
    assert report["goodput"]["requests_s"] == pytest.approx(2 / report["seconds"], rel=1e-3)


@pytest.mark.parametrize("wrong", ["ttft", "ttft=", "ttft=x", "speed=5", "ttft=0", "ttft=nan"])
def test_a_goodput_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(SettingError, match="goodput is"):
        parse_goodput(wrong)


def test_a_busy_client_says_so() -> None:
    def remarks(client_cpu: float) -> list[str]:
        return ServingRun(Load([], 1), [attempt(0.1, 0.1)], client_cpu).to_dict({})["remarks"]

    assert remarks(0.79) == [] and "used 85% of a core" in remarks(0.85)[0]


# What an answer says


def test_tokens_are_those_that_the_server_counts_and_times_those_of_the_text() -> None:
    heard = StreamReader(RequestTimes(1.0), start_s=100.0)
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    for now_s, said in [(102, role), (103, text("a")), (104, text("bc")), (105, usage(5, prompt=9))]:
        heard.take(now_s, json.dumps(said).encode())
    heard.take(106, b"[DONE]")
    heard.end()
    assert heard.error is None and (heard.times.num_tokens, heard.num_prompt_tokens) == (5, 9)
    assert heard.times.output_s == [3, 4] and heard.times.ttft_s == 2


def test_without_usage_chunks_are_counted_and_that_is_told() -> None:
    found = measured(says(stream(text("a"), text("b"), text("c"))), Load(["x"], 3, [0.0]))
    assert found.attempts[0].num_tokens == 3
    assert any("counted as chunks" in remark for remark in found.to_dict({})["remarks"])


FAILURES = {
    "http 429": answer(429, {"error": {"message": "too many"}}),
    "cut": HEAD + event(text("a")) + b"0\r\n\r\n",
    "error event": stream(text("a"), {"error": {"message": "broken"}}),
    "no text": stream(usage(0)),
    "not understood": stream(b"{no json"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_counted_by_its_kind(kind: str) -> None:
    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        is_bad = body["messages"][0]["content"] == "bad"
        send(FAILURES[kind] if is_bad else stream(text("a"), usage(1)))

    report = measured(script, Load(["good", "bad", "good"], 1, [0.0] * 3)).to_dict({})
    assert report["errors"] == {kind: 1} and report["requests"] == 2 and report["first_error"]


def test_a_stream_whose_connection_breaks_is_cut() -> None:
    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        send(HEAD + event(text("a")))
        raise ConnectionError

    (found,) = measured(script, Load(["x"], 2, [0.0])).attempts
    assert (found.kind, len(found.output_s)) == ("cut", 1)


def test_an_answer_that_does_not_come_is_given_up() -> None:
    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        send(HEAD + event(text("a")))

    (found,) = measured(script, Load(["x"], 2, [0.0], timeout_s=0.05)).attempts
    assert found.kind == "timeout"


def test_a_server_that_is_not_there_is_a_failed_connection() -> None:
    async def main() -> ServingRun:
        async with ScriptedServer(says(b"")) as server:
            url = server.url
        async with HttpClient(url) as client:
            return await measure(client, CHAT, Load(["x"], 1, [0.0]))

    assert asyncio.run(main()).attempts[0].kind == "no connection"


def test_a_slow_first_token_is_in_the_time_to_the_first_token() -> None:
    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        await asyncio.sleep(0.08)
        send(HEAD + event(text("a")))
        await asyncio.sleep(0.04)
        send(event(text("b")) + event(usage(2)) + event(b"[DONE]") + b"0\r\n\r\n")

    report = measured(script, Load(["x"], 2, [0.0])).to_dict({"ttft": 60.0})
    ttft_ms, tpot_ms = report["ttft_ms"]["p50"], report["tpot_ms"]["p50"]
    # However late a busy machine sends the first one, the second one cannot come early.
    assert ttft_ms >= 80 and ttft_ms + tpot_ms >= 119 and report["goodput"]["share"] == 0


# Connections


def test_connections_are_used_again_and_one_that_the_server_closed_is_replaced() -> None:
    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        if body == "last":
            send(answer(200, "bye"))
            raise ConnectionError
        send(answer(200, "hello"))

    async def main() -> tuple[int, int]:
        async with ScriptedServer(script) as server, HttpClient(server.url) as client:
            for _ in range(3):
                await client.post("/", b'"more"')
            num_before = server.num_connections
            await client.post("/", b'"last"')
            assert (await client.post("/", b'"more"')).is_ok
            return num_before, server.num_connections

    assert asyncio.run(main()) == (1, 2)


@pytest.mark.parametrize(
    "raw",
    [b"no http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", HEAD + b"5\r\nab"],
)
def test_what_is_no_answer_is_a_broken_one(raw: bytes) -> None:
    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        send(raw)
        raise ConnectionError

    async def main() -> None:
        async with ScriptedServer(script) as server, HttpClient(server.url) as client:
            await client.post("/", b"{}", lambda now_s, data: None)

    with pytest.raises(BrokenAnswerError):
        asyncio.run(main())


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:x", "http://a:0", "http://a/?b"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="not the URL"):
        HttpClient(url)


# What a server takes


def test_a_field_that_the_server_refuses_is_not_sent_and_that_is_told() -> None:
    seen: list[dict[str, Any]] = []

    async def script(path: str, body: Any, send: Callable[[bytes], None]) -> None:
        if path == "/v1/models":
            send(answer(200, {"data": [{"id": "their-model"}]}))
        elif "ignore_eos" in body or "stream_options" in body or isinstance(body["prompt"], list):
            send(answer(400, {"error": {"message": "unknown field"}}))
        else:
            seen.append(body)
            send(stream({"choices": [{"text": "a"}]}))

    async def main() -> Dialect:
        async with ScriptedServer(script) as server, HttpClient(f"{server.url}/v1/") as client:
            return await probe(client, "completions", None)

    dialect = asyncio.run(main())
    assert (dialect.model, dialect.extra, dialect.takes_ids) == ("their-model", {}, False)
    assert seen[0]["model"] == "their-model" and len(dialect.remarks()) == 3


@pytest.mark.parametrize(
    ("raw", "told"), [(answer(401, {"error": {"message": "no key"}}), "no key"), (answer(200, {}), "no stream")]
)
def test_a_server_that_answers_nothing_useful_is_an_error_that_says_so(raw: bytes, told: str) -> None:
    async def main() -> None:
        async with ScriptedServer(says(raw)) as server, HttpClient(server.url) as client:
            await probe(client, "chat", "m")

    with pytest.raises(SettingError, match=told):
        asyncio.run(main())


# Our own server


def test_texts_have_the_words_that_were_asked_for_and_share_their_beginning() -> None:
    texts = make_texts(3, 20, shared=5, seed=1)
    assert texts == make_texts(3, 20, shared=5, seed=1) and len(set(texts)) == 3
    assert {tuple(one.split()[:5]) for one in texts} == {tuple(texts[0].split()[:5])}
    assert all(len(one.split()) == 20 for one in texts)


@pytest.fixture(scope="module")
def url() -> Any:
    with RunningServer(LLM(device="cpu")) as server:
        yield server.url


def verb(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["bench", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(("endpoint", "load"), [("chat", ["--rate", "50"]), ("completions", ["--concurrency", "2"])])
def test_our_server_gives_every_token_and_counts_it(capsys, url: str, endpoint: str, load: list[str]) -> None:
    options = ["--requests", "5", "--prompt", "12", "--generate", "6", "--goodput", "ttft=60000"]
    found = verb(capsys, "serving", url, "--endpoint", endpoint, *options, *load)
    assert (found["requests"], found["output_tokens"], found["errors"]) == (5, 30, {})
    assert [remark for remark in found["remarks"] if not remark.startswith("this client used")] == []
    assert found["goodput"]["share"] == 1 and found["output_tok_s"] == pytest.approx(30 / found["seconds"], rel=0.01)
    if endpoint == "completions":
        assert found["prompt_tokens"] == 5 * 12  # ids, so exactly as many


@pytest.mark.parametrize(
    "arguments",
    [["--requests", "0"], ["--concurrency", "0"], ["--nice", "-1"], ["--goodput", "x"], ["--rate", "0"]],
)
def test_a_load_that_makes_no_sense_is_refused(arguments: list[str], capsys) -> None:
    assert run(["bench", "serving", "http://127.0.0.1:9", *arguments]) == 2
    assert "must" in capsys.readouterr().err or "goodput" in arguments[0]


COSTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "latency": lambda found: all(one["http_ttft_ms"] > 0 < one["engine_ms_per_token"] for one in found["rounds"]),
    "throughput": lambda found: all(one["share"] > 0 for one in found["rounds"]) and found["streams"] == 3,
    "health": lambda found: found["asked"] > 0 and found["health_ms"]["max"] >= found["health_ms"]["p50"],
}


@pytest.mark.slow  # each starts a server of its own
@pytest.mark.parametrize("kind", COSTS)
def test_our_server_is_compared_with_its_engine(capsys, kind: str) -> None:
    options = ["--prompt", "200", "--generate", "8", "--rounds", "2", "--streams", "3", "--threads", "1"]
    found = verb(capsys, "server-cost", str(DEMO), "--measure", kind, *options)
    assert COSTS[kind](found) and len(found.get("rounds", [0, 0])) == 2


def test_the_client_loads_nothing_heavy() -> None:
    modules = ("serving", "openai_api", "http_client", "workload", "request_times")
    assert heavy_modules_after("\n".join(f"import qwartet.bench.{name}" for name in modules)) == []


def test_a_model_that_cannot_be_served_is_told_of(capsys, tmp_path: Path) -> None:
    assert run(["bench", "server-cost", str(tmp_path), "--measure", "health"]) == 2
    assert "did not start" in capsys.readouterr().err
