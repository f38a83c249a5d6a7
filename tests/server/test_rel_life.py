"""The server as a process: it starts, stops, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwartet.cli.serve import _keys, _readable
from tests.forked import Piped, run_forked
from tests.server.running_server import HELLO, ROOT, events, spawned, text_of, wait_for

# About 10 s of one core, so that the stream is still open even if a busy machine delays the test.
LONG = {
    "messages": HELLO, "temperature": 1.5, "seed": 1, "n": 8, "logprobs": True, "top_logprobs": 20, "ignore_eos": True,
    "max_tokens": 1900, "stream": True,
}  # fmt: skip


class Stream(threading.Thread):
    """Reads a stream to its end in a thread; `has_begun` once there is text."""

    def __init__(self, url: str, **body: Any) -> None:
        super().__init__(daemon=True)
        self._url, self._body = url, {**LONG, **body}
        self.lines: list[str] = []
        self.has_begun = threading.Event()
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", f"{self._url}/v1/chat/completions", json=self._body, timeout=60) as response:
            for line in response.iter_lines():
                self.lines.append(line)
                if len(self.lines) > 60:  # every choice has text, not only its role
                    self.has_begun.set()

    def events(self) -> list[Any]:
        self.join(30)
        assert not self.is_alive(), "the stream did not end"
        return events(type("Lines", (), {"iter_lines": lambda _: iter(self.lines)})())  # type: ignore[arg-type]


def wait_until_ready(url: str) -> None:
    wait_for(lambda: is_ready(url), 60)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def exit_code(process: Piped | subprocess.Popen[str], seconds: float) -> int:
    return process.wait(seconds)


def test_rel_08_sigterm_lets_an_open_stream_end_and_refuses_new_ones() -> None:
    with spawned() as (process, url):
        wait_until_ready(url)
        stream = Stream(url, max_tokens=300)
        assert stream.has_begun.wait(30)
        process.terminate()
        wait_for(lambda: httpx.get(f"{url}/health").json() == {"status": "draining"})
        refused = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "shutting_down"
        told = stream.events()
        reasons = [choice["finish_reason"] for chunk in told[:-1] for choice in chunk["choices"]]
        assert told[-1] == "[DONE]" and reasons.count("length") == LONG["n"]
        assert exit_code(process, 20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_rel_08_without_time_to_drain_streams_end_with_an_error(number: signal.Signals) -> None:
    with spawned("--shutdown-timeout", "0") as (process, url):
        wait_until_ready(url)
        stream = Stream(url)
        assert stream.has_begun.wait(30)
        started = time.monotonic()
        process.send_signal(number)
        told = stream.events()
        assert text_of(told[:-2]) and told[-2]["error"]["code"] == "shutting_down" and told[-1] == "[DONE]"
        assert exit_code(process, 20) == 0
        assert time.monotonic() - started < 10


def test_rel_08_a_second_signal_ends_what_is_open() -> None:
    with spawned("--shutdown-timeout", "600") as (process, url):
        wait_until_ready(url)
        stream = Stream(url)
        assert stream.has_begun.wait(30)
        process.terminate()
        wait_for(lambda: httpx.get(f"{url}/health").json() == {"status": "draining"})
        process.terminate()
        assert stream.events()[-2]["error"]["code"] == "shutting_down"
        assert exit_code(process, 20) == 0


def test_rel_08_idle_it_stops_at_once_and_its_port_is_free() -> None:
    with spawned() as (process, url):
        wait_until_ready(url)
        port = int(url.rpartition(":")[2])
        process.terminate()
        assert exit_code(process, 10) == 0
        socket.create_server(("127.0.0.1", port)).close()


def test_rel_08_a_signal_while_the_model_loads_stops_it() -> None:
    with spawned(env={"QWARTET_CPU_ISA": "scalar"}) as (process, _url):
        process.terminate()
        assert exit_code(process, 10) in (0, -signal.SIGTERM)


def fails_to_start(*options: str, env: dict[str, str] | None = None) -> str:
    """The one-line error of `qwartet serve` when it cannot start."""
    code, out, err = run_forked(["serve", *options], os.environ | (env or {}))
    assert (code, out) == (2, b""), err
    lines = [line for line in err.decode().splitlines() if "(loading " not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


def test_rel_09_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in fails_to_start("--port", port)


def test_rel_09_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert "no such directory" in fails_to_start(str(tmp_path / "nothing"), "--port", "0")


def test_rel_09_flags_that_make_no_sense(tmp_path: Path) -> None:
    assert "max_queue is -1" in fails_to_start("--max-queue", "-1")
    assert "request_timeout_s is 0" in fails_to_start("--request-timeout", "0")
    assert "max_num_seqs is 0" in fails_to_start("--port", "0", "--max-num-seqs", "0")
    assert "nothing.key cannot be read" in fails_to_start("--api-key-file", str(tmp_path / "nothing.key"))
    assert "nothing.pem cannot be read" in fails_to_start("--ssl-certfile", str(tmp_path / "nothing.pem"))
    assert "can be reached by others" in fails_to_start("--host", "0.0.0.0")
    assert "8 or more printable" in fails_to_start("--api-key", "short")
    empty = tmp_path / "empty.key"
    empty.write_text("\n")
    assert "holds no key" in fails_to_start("--api-key-file", str(empty))


KEY = "a-key-from-a-pipe"


@pytest.mark.parametrize("kind", ["named pipe", "process substitution"])
def test_keys_may_come_through_a_pipe(tmp_path: Path, kind: str) -> None:
    """It gives what it holds once, and a named one waits for its writer."""
    with ThreadPoolExecutor(1) as pool:
        if kind == "named pipe":
            path = tmp_path / "keys"
            os.mkfifo(path)
            pool.submit(path.write_text, f"{KEY}\n")
            assert _keys([], path) == [KEY]
        else:
            read_end, write_end = os.pipe()
            with os.fdopen(write_end, "w") as pipe:
                pipe.write(f"{KEY}\n")
            assert _keys([], Path(f"/dev/fd/{read_end}")) == [KEY]
            os.close(read_end)


def test_a_certificate_that_comes_through_a_pipe_is_left_to_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "certificate"
    os.mkfifo(path)
    _readable(path)  # would wait for a writer


def test_a_file_of_keys_without_end_is_refused() -> None:
    assert "/dev/zero has more than 1048576 bytes" in fails_to_start("--api-key-file", "/dev/zero")


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with spawned("--uds", str(path)) as (process, url):
        assert url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://any", timeout=60) as client:
            wait_for(path.exists)
            wait_for(lambda: client.get("/health").status_code == 200, 60)
            assert client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 3}).status_code == 200
        assert path.stat().st_mode & 0o777 == 0o600
        process.terminate()
        assert exit_code(process, 10) == 0
    assert not path.exists()


def test_a_dead_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
        assert f"cannot listen on {path} (Address already in use)" in fails_to_start("--uds", str(path))
    with spawned("--uds", str(path)) as (process, _):
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://any", timeout=60) as client:
            wait_for(lambda: responds(client), 60)
        process.terminate()
        assert exit_code(process, 10) == 0


def responds(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_rel_05_after_a_failure_of_the_engine_the_process_ends_and_says_so(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys\n"
        "from qwartet.engine.runner import ModelRunner\n"
        "from qwartet.cli.main import main\n"
        "import qwartet.server.run\n"
        "def run(self, batch):\n"
        "    raise ValueError('the step broke')\n"
        "ModelRunner.run = run\n"
        "qwartet.server.run.FAILED_GRACE_S = 1.0\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, str(script), "serve", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split(" ")[0]
        wait_until_ready(url)
        answer = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO}, timeout=30)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_failed"
        assert httpx.get(f"{url}/health").json() == {"status": "failed"}
        assert exit_code(process, 20) == 1
