"""The walls: all stand where the kernel allows it, and a sandbox with a hole is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwartet.errors import SandboxError, SettingError
from qwartet.sandbox import launch, walls
from qwartet.sandbox.interpreter import python_view
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.process import SandboxedProcess
from qwartet.sandbox.walls import Sandbox, find_sandbox
from tests.golden_data import REPOSITORY

ALLOWED = (
    subprocess.run(
        ["unshare", "--user", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, timeout=30
    ).returncode
    == 0
    if shutil.which("unshare")
    else False
)
SYSTEM_PYTHON = "/usr/bin/python3"


def test_all_walls_stand(sandbox: Sandbox) -> None:
    assert [wall.name for wall in sandbox.walls if not wall.stands] == []
    assert {wall.name for wall in sandbox.walls if wall.essential} == {
        "network", "file system", "processes", "memory", "time",
    }  # fmt: skip
    lines = sandbox.describe(Limits())
    assert len(lines) == 1 + len(sandbox.walls) and lines[1].startswith("  holds  network: ")


@pytest.mark.skipif(not ALLOWED, reason="the kernel forbids namespaces to this user")
def test_where_the_kernel_allows_namespaces_there_is_a_sandbox_without_bubblewrap() -> None:
    assert find_sandbox(("namespaces",)).mechanism == "namespaces"


@pytest.mark.skipif(not ALLOWED or not shutil.which("bwrap"), reason="no bubblewrap here")
def test_bubblewrap_comes_first_where_it_is_installed() -> None:
    assert find_sandbox().mechanism == "bubblewrap"


@pytest.mark.skipif(not ALLOWED or not shutil.which("bwrap"), reason="no bubblewrap here")
@pytest.mark.parametrize(
    ("hole", "missing"),
    [
        (("--unshare-all", "--unshare-all", "--share-net"), "network"),
        (("--unshare-all", "--unshare-user", "--unshare-net"), "processes"),
        (("--chdir", "--ro-bind", "/etc", "/etc", "--chdir"), "file system"),
        (("--remount-ro", "--perms", "0777", "--dir"), "file system"),
    ],
)
def test_a_sandbox_with_a_hole_is_refused(monkeypatch: pytest.MonkeyPatch, hole: tuple[str, ...], missing: str) -> None:
    """`hole`: an option, and what stands in its place."""
    whole = launch._bubblewrap

    def with_a_hole(*args: object) -> list[str]:
        command = whole(*args)  # type: ignore[arg-type]
        place = command.index(hole[0])
        return [*command[:place], *hole[1:], *command[place + 1 :]]

    monkeypatch.setattr(launch, "_bubblewrap", with_a_hole)
    with pytest.raises(SettingError, match=f"bubblewrap does not hold: {missing}"):
        walls._tried(("bubblewrap",))


def test_bounds_that_are_not_set_are_missed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "rlimits", lambda _self: {"NOFILE": (64, 64)})
    found = {wall.name: wall.stands for wall in walls._walls(sandbox.mechanism, Limits())}
    assert [name for name, stands in found.items() if not stands] == ["memory", "time", "process count", "files"]


def test_a_missing_filter_of_system_calls_is_missed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "sandbox_filter", lambda: b"")
    found = walls._walls(sandbox.mechanism, Limits())
    assert [wall.name for wall in found if not wall.stands] == ["system calls"]


def test_without_any_way_the_refusal_says_what_failed_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.shutil, "which", lambda _name: None)
    monkeypatch.setattr(launch, "_LAUNCHER", Path("/nonexistent/launcher.py"))
    monkeypatch.setattr(walls, "_found", {})
    with pytest.raises(
        SettingError, match=r"bubblewrap is not installed; .*namespaces.*; install bubblewrap and allow"
    ):
        find_sandbox()


def test_a_program_that_does_not_start_is_an_error_not_a_verdict(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_INSIDE", Path(__file__).with_name("conftest.py"))
    with pytest.raises(SandboxError, match="does not start: Traceback"):
        SandboxedProcess(sandbox.mechanism, "script", Limits())


def test_a_keypress_in_the_terminal_does_not_reach_it(sandbox: Sandbox) -> None:
    with sandbox.start("script", Limits()) as process:
        assert os.getsid(process.popen.pid) != os.getsid(0)


def test_the_view_holds_the_interpreter_and_no_path_twice() -> None:
    view = python_view()
    assert any(Path(view.executable).is_relative_to(path) for path in view.paths)
    assert any(Path(os.__file__).is_relative_to(path) for path in view.paths)
    assert not [p for p in view.paths for q in view.paths if p != q and Path(p).is_relative_to(q)]
    assert not set(view.paths) & {"/", "/etc", "/home", str(Path.home()), sys.base_prefix} - {"/usr"}


CODE = """
from qwartet.sandbox.walls import find_sandbox
for mechanism in {mechanisms}:
    print([wall.name for wall in find_sandbox((mechanism,)).walls if not wall.stands])
"""


@pytest.mark.skipif(os.geteuid() != 0 or not ALLOWED, reason="only root can become another user")
def test_a_plain_user_has_the_same_walls() -> None:
    version = "import sys; sys.exit(sys.version_info < (3, 11))"
    as_user = {"user": 12345, "group": 12345, "extra_groups": [], "cwd": "/"}
    mechanisms = [name for name in walls.MECHANISMS if name != "bubblewrap" or shutil.which("bwrap")]
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    for needed in (version, "import qwartet.errors"):
        ended = subprocess.run([SYSTEM_PYTHON, "-c", needed], env=environment, capture_output=True, **as_user)
        if ended.returncode:
            pytest.skip("no Python that another user can run, or no repository that it can read")
    command = [SYSTEM_PYTHON, "-c", CODE.format(mechanisms=mechanisms)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **as_user)
    assert ended.stdout.splitlines() == ["[]"] * len(mechanisms), ended.stderr
