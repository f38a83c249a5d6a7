"""Faults while serving: clients that disconnect, full queues, failing engines. Nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from qwartet import LLM
from qwartet.engine.runner import ModelRunner
from qwartet.server.limits import Limits
from tests.server.running_server import HELLO, MODEL, RunningServer, events, text_of, wait_for

SECRET = " ".join(["text", "of", "a", "user"])  # so that a logged source line does not contain it
LONG = {"messages": HELLO, "temperature": 0, "ignore_eos": True, "max_tokens": 1500, "stream": True}
CONTENT = b'"content":"'  # in each chunk of a chat, including the first


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture
def server(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm) as running:
        yield running
        wait_for(running.is_idle)


class Gate:
    """Blocks the engine before its next step until opened."""

    def __init__(self, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open, self.is_reached = threading.Event(), threading.Event()
        self._run = llm.engine.runner.run
        monkeypatch.setattr(llm.engine.runner, "run", self._wait_and_run)

    def _wait_and_run(self, *arguments: Any) -> Any:
        self.is_reached.set()
        assert self.is_open.wait(30)
        return self._run(*arguments)


@pytest.fixture
def gate(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(llm, monkeypatch)
    yield gate
    gate.is_open.set()


def send_stream(server: RunningServer, **body: Any) -> socket.socket:
    """A connection that requested a stream and reads nothing."""
    content = json.dumps({**LONG, **body}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
    return connection


def read_until(connection: socket.socket, wanted: bytes, times: int = 1) -> None:
    received = b""
    while received.count(wanted) < times:
        part = connection.recv(4096)
        assert part, f"the connection was closed after {received!r}"
        received += part


def test_rel_01_after_a_storm_of_cancellations_the_next_request_is_served(server: RunningServer) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.url, limits=httpx.Limits(max_connections=50)) as client:

            async def one() -> None:
                with pytest.raises(httpx.ReadTimeout):
                    async with client.stream(
                        "POST", "/v1/chat/completions", json=LONG, timeout=httpx.Timeout(30, read=2.0)
                    ) as response:
                        await asyncio.sleep(0.3)  # simulates a client that gives up
                        raise httpx.ReadTimeout("given up", request=response.request)

            await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(main())
    wait_for(server.is_idle)
    assert server.metric("qwartet_aborts_total", reason="disconnect") == 50
    assert server.metric("qwartet_completions_total", finish_reason="abort") == 50
    assert server.chat().status_code == 200


def test_rel_02_a_client_that_goes_while_its_request_waits(server: RunningServer, gate: Gate) -> None:
    connections = [send_stream(server) for _ in range(20)]  # more than can run at once
    wait_for(lambda: server.service.num_open == 20)
    connections[-1].close()
    wait_for(lambda: server.service.num_open == 19)
    for connection in connections:
        connection.close()
    wait_for(lambda: server.service.num_open == 0)
    gate.is_open.set()


def test_rel_02_a_client_that_goes_during_its_prefill(server: RunningServer, gate: Gate) -> None:
    connection = send_stream(server)
    assert gate.is_reached.wait(10)
    connection.close()
    wait_for(lambda: server.service.num_open == 0)
    gate.is_open.set()


@pytest.mark.parametrize("num_chunks", [1, 2, 20])  # the role, the first token, later
def test_rel_02_a_client_that_goes_in_mid_stream(server: RunningServer, num_chunks: int) -> None:
    connection = send_stream(server)
    read_until(connection, CONTENT, num_chunks)
    connection.close()
    wait_for(server.is_idle)


def test_rel_02_a_client_that_goes_when_only_the_end_is_missing(server: RunningServer) -> None:
    for _ in range(20):
        connection = send_stream(server, max_tokens=2)
        read_until(connection, b'"finish_reason":"length"')
        connection.close()
    wait_for(server.is_idle)


def test_rel_02_a_client_that_goes_before_a_whole_answer(server: RunningServer) -> None:
    connection = send_stream(server, stream=False)
    wait_for(lambda: server.llm.engine.scheduler.running)
    connection.close()
    wait_for(server.is_idle)
    assert server.metric("qwartet_aborts_total", reason="disconnect") == 1


def test_rel_02_no_task_is_left_and_nothing_is_logged(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    server.chat()
    before = server.call(lambda: len(asyncio.all_tasks()))
    for _ in range(10):
        connection = send_stream(server)
        read_until(connection, CONTENT, 3)
        connection.close()
    wait_for(server.is_idle)
    wait_for(lambda: server.call(lambda: len(asyncio.all_tasks())) <= before)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_rel_03_exactly_those_beyond_the_queue_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    llm = LLM(device="cpu", max_num_seqs=2)
    gate = Gate(llm, monkeypatch)
    with RunningServer(llm, limits=Limits(max_queue=3)) as server, ThreadPoolExecutor(12) as pool:
        found = [pool.submit(server.chat, max_tokens=5)]
        assert gate.is_reached.wait(10)
        found += [pool.submit(server.chat, max_tokens=5) for _ in range(8)]
        wait_for(lambda: sum(one.done() for one in found) == 4)  # 9 - 2 running - 3 waiting
        assert server.chat(n=5).status_code == 429
        gate.is_open.set()
        answers = [one.result() for one in found]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 4 and sum(answer.status_code == 200 for answer in answers) == 5
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert len({answer.text.partition('"choices"')[2].partition('"usage"')[0] for answer in answers} - {""}) == 1
        wait_for(server.is_idle)


def test_rel_03_the_official_client_tries_again_and_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(device="cpu", max_num_seqs=1)
    gate = Gate(llm, monkeypatch)
    with RunningServer(llm, limits=Limits(max_queue=0)) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.chat, max_tokens=5)
        assert gate.is_reached.wait(10)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2)
        threading.Timer(0.2, gate.is_open.set).start()
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5)  # type: ignore[call-overload]
        assert answer.choices[0].finish_reason == "length" and first.result().status_code == 200


def test_rel_04_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(device="cpu", max_num_seqs=1)
    gate = Gate(llm, monkeypatch)
    with RunningServer(llm, limits=Limits(queue_timeout_s=0.2)) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.chat, max_tokens=3)
        assert gate.is_reached.wait(10)
        late = server.chat(max_tokens=3)
        assert late.status_code == 503 and late.json()["error"]["code"] == "queue_timeout"
        assert late.headers["retry-after"] == "1"
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=LONG, timeout=30) as response:
            told = events(response)
        assert told[-2]["error"]["code"] == "queue_timeout" and told[-1] == "[DONE]"
        gate.is_open.set()
        assert running.result().status_code == 200
        wait_for(server.is_idle)


def test_rel_04_an_answer_that_takes_too_long_ends_with_an_error(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    run = llm.engine.runner.run
    monkeypatch.setattr(llm.engine.runner, "run", lambda batch: (time.sleep(0.03), run(batch))[1])  # with drafts too
    with RunningServer(llm, limits=Limits(request_timeout_s=1.5)) as server:  # after the first token
        whole = server.post("/v1/chat/completions", **{**LONG, "stream": False})
        assert whole.status_code == 504 and whole.json()["error"]["code"] == "request_timeout"
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=LONG, timeout=30) as response:
            told = events(response)
        assert text_of(told[:-2]) and told[-2]["error"]["code"] == "request_timeout" and told[-1] == "[DONE]"
        assert server.metric("qwartet_aborts_total", reason="request_timeout") == 2
        wait_for(server.is_idle)


def test_rel_05_an_error_in_a_step_is_told_to_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(device="cpu")
    run, num_steps = llm.engine.runner.run, 0
    with RunningServer(llm) as server, ThreadPoolExecutor(3) as pool:

        def evil(*arguments: Any) -> Any:
            nonlocal num_steps
            num_steps += server.service.num_open == 3  # all of them must get the error
            if num_steps > 10:
                raise ValueError(SECRET)
            return run(*arguments)

        monkeypatch.setattr(llm.engine.runner, "run", evil)

        def read() -> list[Any]:
            with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=LONG, timeout=30) as response:
                return events(response)

        streams = [pool.submit(read) for _ in range(2)]
        whole = pool.submit(server.post, "/v1/chat/completions", **{**LONG, "stream": False})
        for stream in streams:
            told = stream.result()
            assert told[-1] == "[DONE]" and told[-2]["error"]["code"] == "engine_failed"
        assert whole.result().status_code == 503
        assert server.get("/health/ready").status_code == server.get("/health").status_code == 503
        assert server.get("/health/live").status_code == 200
        assert server.get("/health").json() == {"status": "failed"}
        again = server.chat()
        assert again.status_code == 503 and again.json()["error"]["code"] == "engine_failed"
        assert server.metric("qwartet_engine_healthy") == 0
        assert server.service.num_open == 0


@pytest.mark.parametrize("place", ["tokenizer", "answer"])
def test_rel_05_an_error_of_one_request_is_its_own(
    llm: LLM, server: RunningServer, monkeypatch: pytest.MonkeyPatch, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        if place == "tokenizer":
            patch.setattr("qwartet.llm.LLM.prompt_ids", fail)
        else:
            patch.setattr("qwartet.openai_api.exchange.chat_completion", fail)
            patch.setattr("qwartet.openai_api.chunks.ChatChunks.of", fail)
        whole = server.chat()
        assert whole.status_code == 500 and whole.json()["error"]["code"] == "internal_error"
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=LONG, timeout=30) as response:
            if place == "answer":
                told = events(response)
                assert told[-2]["error"]["code"] == "internal_error" and told[-1] == "[DONE]"
            else:
                assert response.status_code == 500
    assert SECRET not in whole.text + caplog.text
    wait_for(server.is_idle)
    assert server.chat().status_code == 200


def fail(*_: Any, **__: Any) -> Any:
    raise ValueError(SECRET)


def test_rel_05_a_row_that_is_not_finite_ends_that_request_alone(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ModelRunner.run

    def run_with_nan(self: ModelRunner, batch: Any) -> Any:
        hidden = run(self, batch)
        if (batch.input_ids == 777).any():
            hidden[-1] = float("nan")
        return hidden

    monkeypatch.setattr(ModelRunner, "run", run_with_nan)
    broken = server.post("/v1/completions", prompt=[777], max_tokens=3)
    assert broken.status_code == 500 and "finite" in broken.json()["error"]["message"]
    assert server.chat().status_code == 200


def test_rel_07_a_cache_that_is_too_small_for_all_preempts_and_gives_the_same_text() -> None:
    llm = LLM(device="cpu", max_model_len=512, num_blocks=40)
    with RunningServer(llm) as server, ThreadPoolExecutor(6) as pool:
        bodies = [
            {"messages": [{"role": "user", "content": f"Count from {number}."}], "max_tokens": 200, "ignore_eos": True}
            for number in range(6)
        ]
        alone = [server.chat(**body).json()["choices"] for body in bodies]
        together = [one.json()["choices"] for one in pool.map(lambda body: server.chat(**body), bodies)]
        assert together == alone
        wait_for(server.is_idle)


def test_rel_10_health_while_loading_ready_failed_and_draining(llm: LLM) -> None:
    with RunningServer(llm, is_loaded=False) as server:

        def health() -> tuple[int, int, str]:
            ready = server.get("/health/ready")
            return server.get("/health/live").status_code, ready.status_code, ready.json()["status"]

        assert health() == (200, 503, "loading")
        refused = server.chat()
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "loading"
        assert refused.headers["retry-after"] == "1"
        server.call(server.open)
        assert health() == (200, 200, "ready")
        server.call(server.service.drain)
        assert health() == (200, 503, "draining")
        assert server.chat().json()["error"]["code"] == "shutting_down"


def test_rel_10_health_is_answered_while_a_step_runs(server: RunningServer, gate: Gate) -> None:
    connection = send_stream(server)
    assert gate.is_reached.wait(10)
    assert server.get("/health").status_code == 200
    assert not gate.is_open.is_set()
    connection.close()
    gate.is_open.set()


def test_rel_13_who_does_not_read_loses_the_connection_and_the_others_go_on(llm: LLM) -> None:
    with RunningServer(llm, limits=Limits(write_timeout_s=0.5)) as server:
        connection = send_stream(server, n=8, logprobs=True, top_logprobs=20)
        read_until(connection, b"200 OK")
        assert server.chat(max_tokens=20).status_code == 200
        wait_for(lambda: server.service.num_open == 0, 30)
        wait_for(server.is_idle)
        assert server.metric("qwartet_aborts_total", reason="slow_reader") == 1
        wait_for(lambda: server.call(lambda: server.num_connections) <= 1)
        connection.close()


def test_a_silent_stream_shows_signs_of_life(llm: LLM, gate: Gate) -> None:
    with RunningServer(llm, limits=Limits(ping_interval_s=0.05)) as server:
        connection = send_stream(server)
        read_until(connection, b": ping\n\n")
        connection.close()
        gate.is_open.set()
        wait_for(server.is_idle)


def test_rel_23_what_the_metrics_count_is_what_clients_saw(llm: LLM) -> None:
    with RunningServer(llm, limits=Limits(max_queue=2)) as server:
        answers = [server.chat(max_tokens=number + 1) for number in range(5)]
        answers.append(server.chat(max_tokens=-1))
        answers.append(server.chat(model="other"))
        usage = [answer.json()["usage"] for answer in answers if answer.status_code == 200]
        connection = send_stream(server, max_tokens=1000)
        read_until(connection, CONTENT, 3)
        connection.close()
        wait_for(server.is_idle)
        route = "/v1/chat/completions"
        assert server.metric("qwartet_http_requests_total", route=route, status="400") == 1
        assert server.metric("qwartet_http_requests_total", route=route, status="404") == 1
        wait_for(lambda: server.metric("qwartet_http_requests_total", route=route, status="200") == 6)
        assert server.metric("qwartet_request_seconds_count") == 6
        assert server.metric("qwartet_time_to_first_token_seconds_count") == 1
        assert server.metric("qwartet_completions_total", finish_reason="abort") == 1
        reasons = [answer.json()["choices"][0]["finish_reason"] for answer in answers if answer.status_code == 200]
        for reason in set(reasons):
            assert server.metric("qwartet_completions_total", finish_reason=reason) == reasons.count(reason)
        prompt = sum(one["prompt_tokens"] for one in usage) + usage[0]["prompt_tokens"]
        assert server.metric("qwartet_prompt_tokens_total") == prompt
        made = server.metric("qwartet_completion_tokens_total") - sum(one["completion_tokens"] for one in usage)
        assert 1 <= made < 1000  # by the abandoned stream
