"""The command that starts a program of inside.py behind the walls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from qwartet.errors import SandboxError
from qwartet.sandbox.interpreter import View, package_place, python_view
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.system_calls import sandbox_filter

Mechanism = Literal["bubblewrap", "namespaces"]
NOBODY = 65534
_LAUNCHER = Path(__file__).with_name("launcher.py")
_INSIDE = Path(__file__).with_name("inside.py")
# As with -I, but for one variable: sets are in the same order in every run.
_PYTHON_OPTIONS = ("-s", "-S", "-P")
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}


def launch(
    mechanism: Mechanism, role: str, limits: Limits, *, filtered: bool, packages: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """Starts it, with pipes to its standard input and from its output and error; `filtered` is whether its system calls
    are, `packages` are directories that it sees. SandboxError where it cannot be started.
    """
    view = python_view(packages)
    program = [view.executable, *_PYTHON_OPTIONS, "-c", _INSIDE.read_text(encoding="utf-8"), role]
    program.append(json.dumps(limits.rlimits()))
    stage = _Stage.of(view)
    places = [(path, path) for path in view.paths]
    places += [(path, package_place(number)) for number, path in enumerate(view.packages)]
    paths = [(stage.sources.get(path, path), place) for path, place in places]
    code = sandbox_filter() if filtered else b""
    if mechanism == "namespaces":
        return _popen(stage.command(_own_namespaces(paths, view, limits, code, program)))
    if not code:
        return _popen(stage.command({"command": [*_bubblewrap(paths, view, limits), "--", *program]}))
    descriptor = os.memfd_create("filter")
    try:
        os.write(descriptor, code)
        os.lseek(descriptor, 0, os.SEEK_SET)
        command = [*_bubblewrap(paths, view, limits), "--seccomp", str(descriptor), "--", *program]
        return _popen(stage.command({"command": command}), descriptor)
    finally:
        os.close(descriptor)


def _popen(command: Sequence[str], *descriptors: int) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env={},
            pass_fds=descriptors,
            start_new_session=True,  # a Ctrl-C is for this process; there it would look like the candidate's end
        )
    except OSError as error:
        raise SandboxError(f"{command[0]} does not start ({error.strerror})") from None


@dataclass(frozen=True)
class _Stage:
    """What root does first: which user to become, and where that user finds what only root can reach."""

    uid: int | None
    directory: str
    sources: dict[str, str]  # a path -> where it is then

    @classmethod
    @cache
    def of(cls, view: View) -> _Stage:
        if os.geteuid() != 0:
            return cls(None, "", {})
        paths = (*view.paths, *view.packages)
        hidden = [path for path in paths if not _all_may_read(path)]
        directory = _mount_point(paths)
        return cls(NOBODY, directory, {path: f"{directory}/{number}" for number, path in enumerate(hidden)})

    def command(self, config: dict[str, Any]) -> list[str]:
        """What to start: bubblewrap itself, or launcher.py where root or bare namespaces need it."""
        if self.uid is None and "root" not in config:
            return list(config["command"])
        config |= {"uid": self.uid, "stage": list(self.sources.items()), "stage_directory": self.directory}
        return [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(config)]


def _all_may_read(path: str) -> bool:
    """Whether every user can reach and read a path."""
    parents = Path(path).parents
    return bool(os.stat(path).st_mode & 0o004) and all(os.stat(parent).st_mode & 0o001 for parent in parents)


def _mount_point(not_above: Sequence[str]) -> str:
    """An existing directory that something can be mounted on, seen by the sandbox alone, with none of these in it."""
    for name in ("/mnt", "/media", "/srv", "/run", "/tmp", "/var"):
        if os.path.isdir(name) and not any(Path(path).is_relative_to(name) for path in not_above):
            return name
    raise SandboxError("the sandbox needs one of the directories /mnt, /media, /srv, /run, /tmp and /var")


def _bubblewrap(paths: Sequence[tuple[str, str]], view: View, limits: Limits) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bubblewrap is not installed")
    command = [program, "--unshare-all", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    for source, target in paths:
        command += ["--ro-bind", source, target]
    for path in view.devices:
        command += ["--dev-bind", path, path]
    for target, name in view.links:
        command += ["--symlink", target, name]
    command += ["--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    command += ["--die-with-parent", "--new-session", "--clearenv"]
    for variable, value in _ENVIRONMENT.items():
        command += ["--setenv", variable, value]
    return command


def _own_namespaces(
    paths: Sequence[tuple[str, str]], view: View, limits: Limits, code: bytes, program: Sequence[str]
) -> dict[str, Any]:
    root = {
        "paths": paths,
        "links": view.links,
        "devices": view.devices,
        "over": _mount_point(()),
        "tmp_options": f"mode=1777,size={limits.disk_bytes},nr_inodes={limits.files}",
    }
    return {
        "command": program,
        "environment": _ENVIRONMENT,
        "filter": code.hex(),
        "root": root,
        "inner_uid": NOBODY,
    }
