"""Runs the main uses of the clients in clients.toml against our server with the bundled model.

    python -m tests.clients.run [CLIENT ...]        (make test-clients)

Prints a table and writes build/clients/results.json. Exit code 1 if a use fails, or if no client could be installed;
a client that cannot be installed, or not within the time, is only reported. --document writes the table of
docs/serving.md anew.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BUILD = REPOSITORY / "build" / "clients"
RESULTS = BUILD / "results.json"
DOCUMENT = REPOSITORY / "docs" / "serving.md"
BEGIN, END = "<!-- made by python -m tests.clients.run --document -->", "<!-- end -->"
API_KEY = "the-key-of-the-test"
CLIENT_TIMEOUT_S = 180
Client = dict[str, Any]


@contextmanager
def server(*options: str) -> Iterator[str]:
    """The base URL of a server with the bundled model."""
    command = [
        sys.executable,
        "-m",
        "qwartet.cli.main",
        "serve",
        "--port",
        "0",
        "--served-model-name",
        "demo",
        *options,
    ]
    environment = os.environ | {"QWARTET_API_KEY": API_KEY, "PYTHONPATH": str(REPOSITORY)}
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "server.log", "a") as log:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        url = process.stderr.readline().split(" ")[0].strip()
        copying = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)  # nothing waits for a full pipe
    try:
        while not _is_ready(url):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start; see {BUILD / 'server.log'}")
            time.sleep(0.1)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(60)
        copying.wait(60)


def _is_ready(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/health", timeout=10).status == 200)
    except OSError:  # 503 while the model is loaded, or no answer yet
        return False


def install(name: str, client: Client, torch: str, deadline_s: float) -> Path:
    """The interpreter of a client; CalledProcessError or TimeoutExpired where it cannot be installed."""
    if "npm" in client:
        return _install_npm(deadline_s)
    home = BUILD / "python" / name
    python, stamp = home / "bin" / "python", home / "installed.txt"
    wanted = "\n".join(client["packages"])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    _call([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)], deadline_s)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    if client.get("needs_torch"):  # before what would bring the CUDA build
        _call([*pip, *torch.split(" ")], deadline_s)
    _call([*pip, *client["packages"]], deadline_s)
    stamp.write_text(wanted)
    return python


def _install_npm(deadline_s: float) -> Path:
    """Node's own program, with the packages of all clients in the folder of the scripts."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise FileNotFoundError("node and npm are not installed")
    home, wanted = BUILD / "npm", sorted({one for client in clients().values() for one in client.get("npm", ())})
    stamp = home / "installed.txt"
    home.mkdir(parents=True, exist_ok=True)
    if not stamp.is_file() or stamp.read_text() != "\n".join(wanted):
        (home / "package.json").write_text('{"private": true}')
        _call([npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "--silent", *wanted], deadline_s)
        stamp.write_text("\n".join(wanted))
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, home)
    return Path(node)


def _call(command: Sequence[str], deadline_s: float) -> None:
    """Does it; an error has what it wrote."""
    seconds = deadline_s - time.monotonic()
    if seconds <= 0:
        raise subprocess.TimeoutExpired("the installation", 0)
    subprocess.run(command, check=True, timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def uses(name: str, client: Client, program: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """What each use of a client came to."""
    stem = f"use_{name.replace('-', '_')}"
    script = BUILD / "npm" / f"{stem}.mjs" if "npm" in client else HERE / f"{stem}.py"
    output, problem = "", ""
    try:
        done = subprocess.run(
            [program, script], capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, env=environment, cwd=BUILD
        )
        output, problem = done.stdout, done.stderr[-1500:] if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        output, problem = (error.stdout or b"").decode(), f"not done after {CLIENT_TIMEOUT_S} s"
    found = []
    for line in output.splitlines():
        with suppress(ValueError):
            if isinstance(one := json.loads(line), dict) and "use" in one:
                found.append(one)
    if problem or not found:
        found.append({"use": "script", "ok": False, "detail": problem or "no use was reported", "seconds": 0})
    return found


def clients() -> dict[str, Client]:
    """Those of clients.toml, by name."""
    return tomllib.loads((HERE / "clients.toml").read_text(encoding="utf-8"))


def version(client: Client) -> str:
    """Of the package that a client is named after."""
    first: str = (client.get("npm") or client["packages"])[0]
    return re.split("==|(?<=.)@", first)[-1]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.run")
    parser.add_argument("names", nargs="*", metavar="CLIENT", help="of clients.toml; all if left out")
    parser.add_argument("--minutes", type=float, default=10, help="clients not installed by then are left out")
    parser.add_argument("--torch", default="torch", help="what pip installs as torch, where a client needs it")
    parser.add_argument("--document", action="store_true", help="write the table of docs/serving.md")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(clients()):
        parser.error(f"clients.toml has no {', '.join(sorted(unknown))}")
    chosen = {name: client for name, client in clients().items() if name in given.names or not given.names}
    deadline_s = time.monotonic() + 60 * given.minutes
    with (
        server() as url,
        server("--max-num-seqs", "1", "--max-queue", "1") as busy_url,
        ThreadPoolExecutor(1) as installer,  # while the clients before it run
    ):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHON"))}
        environment |= {"CLIENTS_BASE_URL": url, "CLIENTS_BUSY_URL": busy_url, "CLIENTS_API_KEY": API_KEY}
        environment |= {"CLIENTS_EXAMPLES": str(REPOSITORY / "examples"), "QWARTET_PYTHON": sys.executable}
        programs = {
            name: installer.submit(install, name, client, given.torch, deadline_s) for name, client in chosen.items()
        }
        results = [told_result(name, client, programs[name], environment) for name, client in chosen.items()]
    RESULTS.write_text(json.dumps(results, indent=1))
    if given.document:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
        DOCUMENT.write_text(f"{text[:before]}\n{table(results)}\n{text[after:]}", encoding="utf-8")
    return exit_code(results)


def exit_code(results: Sequence[dict[str, Any]]) -> int:
    """Of the job."""
    is_failed = any(not one["ok"] for result in results for one in result["uses"])
    return int(is_failed or not any(result["uses"] for result in results))


def told_result(name: str, client: Client, program: Future[Path], environment: dict[str, str]) -> dict[str, Any]:
    """A client's entry, which is also printed."""
    started_s, left_out = time.monotonic(), ""
    found: list[dict[str, Any]] = []
    try:
        program.result()
    except (OSError, subprocess.SubprocessError) as error:
        left_out = f"not installed: {error} {(getattr(error, 'stdout', None) or '')[-600:]}".strip()
    installed_s = time.monotonic()
    if not left_out:
        found = uses(name, client, program.result(), environment)
    ended_s = time.monotonic()
    good = sum(one["ok"] for one in found)
    told = " ".join(left_out.split()) if left_out else f"{good} of {len(found)} uses"
    waited_s, used_s = round(installed_s - started_s, 1), round(ended_s - installed_s, 1)
    print(f"{name:17} {version(client):10} {told:18} {used_s:6.1f} s, and {waited_s:5.1f} s until it was installed")
    for one in found:
        if not one["ok"]:
            print(f"    {one['use']}: {one['detail']}")
    sys.stdout.flush()
    return {
        "client": name, "version": version(client), "uses": found, "left_out": left_out, "waited_s": waited_s,
        "used_s": used_s,
    }  # fmt: skip


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = ["| client | version | works | does not |", "|---|---|---|---|"]
    for result in results:
        good, bad = (
            [one["use"].replace("_", " ") for one in result["uses"] if one["ok"] is ok] for ok in (True, False)
        )
        wrong = ", ".join(bad) or ("" if result["uses"] else "not tried: it could not be installed")
        lines.append(f"| {result['client']} | {result['version']} | {', '.join(good)} | {wrong} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
