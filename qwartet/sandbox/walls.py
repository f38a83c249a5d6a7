"""Which walls stand on this machine: each is tried from the inside before any untrusted code runs."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qwartet.errors import SandboxError, SettingError
from qwartet.sandbox.launch import NOBODY, Mechanism
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.process import Ended, SandboxedProcess

MECHANISMS: tuple[Mechanism, ...] = ("bubblewrap", "namespaces")
_PROBE = Path(__file__).with_name("probe.py")
_ESSENTIAL = {
    "network": "a network namespace of its own, without interfaces",
    "file system": "a mount namespace of its own: Python and the system's libraries read-only, an empty /tmp in memory",
    "processes": "process and IPC namespaces of its own",
    "memory": "{memory_bytes} of address space a process",
    "time": "{cpu_seconds} s of CPU time a process, {seconds:g} s a program or cell; then all it started is killed",
}
_FURTHER = {
    "user": f"a user namespace of its own, as user {NOBODY} without capabilities",
    "process count": "{processes} processes and threads at a time",
    "files": "{file_bytes} a file, {disk_bytes} in all, {open_files} open at a time",
    "descriptors": "no open file is inherited, and no environment",
    "system calls": "a filter without sockets, namespaces, ptrace, keys and other seldom used calls (seccomp)",
}
NAMES = (*_ESSENTIAL, *_FURTHER)


@dataclass(frozen=True)
class Wall:
    """One thing that sandboxed code cannot get past."""

    name: str
    stands: bool
    essential: bool  # without it nothing is run


@dataclass(frozen=True)
class Sandbox:
    """A way to run untrusted code on this machine."""

    mechanism: Mechanism
    walls: tuple[Wall, ...]

    def start(self, role: str, limits: Limits, packages: tuple[str, ...] = ()) -> SandboxedProcess:
        """A program of inside.py; SandboxError where it does not start, tried three times."""
        for pause in (0.2, 1.0):
            try:
                return SandboxedProcess(self.mechanism, role, limits, packages=packages)
            except SandboxError:
                time.sleep(pause)  # the machine may be out of processes for a moment
        return SandboxedProcess(self.mechanism, role, limits, packages=packages)

    def describe(self, limits: Limits) -> list[str]:
        """A line for each wall, as programs with these limits meet it."""
        bounds = asdict(limits)
        shown = {name: f"{value // 2**20} MiB" if name.endswith("_bytes") else value for name, value in bounds.items()}
        how = {name: text.format(**shown) for name, text in (_ESSENTIAL | _FURTHER).items()}
        names = {"bubblewrap": "bubblewrap", "namespaces": "the kernel's namespaces"}
        lines = [f"sandbox: {names[self.mechanism]}"]
        return lines + [
            f"  {'holds' if wall.stands else 'FAILS'}  {wall.name}: {how[wall.name]}" for wall in self.walls
        ]


_found: dict[Sequence[Mechanism], Sandbox] = {}
_finding = threading.Lock()


def find_sandbox(mechanisms: Sequence[Mechanism] = MECHANISMS) -> Sandbox:
    """The first of these whose essential walls stand. SettingError, with what fails in each, where none has them."""
    with _finding:
        if (key := tuple(mechanisms)) not in _found:
            _found[key] = _tried(key)
        return _found[key]


def _tried(mechanisms: Sequence[Mechanism]) -> Sandbox:
    reasons = []
    for mechanism in mechanisms:
        try:
            sandbox = Sandbox(mechanism, _walls(mechanism, Limits()))
        except SandboxError as error:
            reasons.append(str(error))
            continue
        if not (missing := [wall.name for wall in sandbox.walls if wall.essential and not wall.stands]):
            return sandbox
        reasons.append(f"{mechanism} does not hold: {', '.join(missing)}")
    reason = "; ".join(reasons)
    raise SettingError(
        f"untrusted code cannot be run safely here ({reason}); install bubblewrap and allow user namespaces "
        "(docs/sandbox.md)"
    )


def _walls(mechanism: Mechanism, limits: Limits) -> tuple[Wall, ...]:
    """Each wall as a probe found it; the namespaces are tried without the filter, which would hide a missing one."""
    bounds = asdict(limits)
    with socket.socket() as listener, tempfile.NamedTemporaryFile() as file:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        outside = {
            "pid": os.getpid(), "uid": NOBODY, "port": listener.getsockname()[1], "file": file.name
        }  # fmt: skip
        source = f"{_PROBE.read_text(encoding='utf-8')}\nmain({bounds!r}, {outside!r})\n"
        bare, filtered = (_probe(mechanism, limits, source, filtered=kind) for kind in (False, True))
    found = {**bare, "system calls": filtered.get("system calls") is True}
    return tuple(Wall(name, found.get(name) is True, name in _ESSENTIAL) for name in NAMES)


def _probe(mechanism: Mechanism, limits: Limits, source: str, *, filtered: bool) -> dict[str, object]:
    with SandboxedProcess(mechanism, "script", limits, filtered=filtered) as process:
        deadline = time.monotonic() + limits.seconds
        try:
            process.send(json.dumps(source).encode(), deadline)
            said = process.read_all(deadline, limits.output_bytes)
        except Ended:
            said = b""
    try:
        found = json.loads(said)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise SandboxError(f"the probe of the sandbox ({mechanism}) fails: {last or 'it says nothing'}")
    return found
