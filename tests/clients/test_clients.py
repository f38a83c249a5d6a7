"""The job that runs the clients: scripts, versions and the documented table match; what it reports."""

from __future__ import annotations

import subprocess
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.clients import run
from tests.clients.run import BEGIN, DOCUMENT, END, HERE, clients, version


def test_every_client_has_a_script_and_every_script_a_client() -> None:
    scripts = {path.name for path in HERE.glob("use_*")}
    assert scripts == {
        f"use_{name.replace('-', '_')}.{'mjs' if 'npm' in client else 'py'}" for name, client in clients().items()
    }


def test_all_versions_are_pinned() -> None:
    for client in clients().values():
        for package in client.get("packages", ()):
            assert "==" in package
        assert all("@" in package[1:] for package in client.get("npm", ())) and version(client)[0].isdigit()


def test_the_document_has_every_client_in_its_version() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in text[text.index(BEGIN) : text.index(END)].splitlines()[3:]]
    assert [[name.removeprefix("| "), number] for name, number in rows] == [
        [name, version(client)] for name, client in clients().items()
    ]


def report(monkeypatch: pytest.MonkeyPatch, outcomes: dict[str, list[bool] | None], tmp_path: Path) -> int:
    """The exit code for these outcomes of each client's uses; None: not installed."""

    def result(name: str, *_: Any) -> dict[str, Any]:
        program: Future[Path] = Future()
        good = outcomes[name]
        if good is None:
            program.set_exception(subprocess.CalledProcessError(1, ["pip"], output="no such version"))
        else:
            program.set_result(tmp_path)
            found = [{"use": "chat", "ok": one, "detail": "wrong", "seconds": 0} for one in good]
            monkeypatch.setattr(run, "uses", lambda *_: found)
        return run.told_result(name, {"packages": ["x==1"]}, program, {})

    return run.exit_code([result(name) for name in outcomes])


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ({"one": [True, True], "two": None}, 0),
        ({"one": [True, False], "two": None}, 1),
        ({"one": None, "two": None}, 1),
    ],
)
def test_a_failed_use_fails_the_job_and_a_client_that_cannot_be_installed_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], outcomes: Any, code: int
) -> None:
    assert report(monkeypatch, outcomes, tmp_path) == code
    assert "no such version" in capsys.readouterr().out


def test_a_script_that_breaks_off_is_a_failed_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "BUILD", tmp_path)
    (tmp_path / "use_x.py").write_text('print(\'{"use": "chat", "ok": true}\'); raise SystemExit(\'no module\')')
    found = run.uses("x", {"packages": ["x==1"]}, Path(run.sys.executable), {})
    assert [one["ok"] for one in found] == [True, False] and "no module" in found[1]["detail"]
