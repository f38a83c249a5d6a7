"""What Python needs of the file system: its executable and library, the system's libraries, and nothing of a user's."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


@dataclass(frozen=True)
class View:
    """What a sandboxed program sees: paths under their own names, read-only, and links."""

    executable: str
    paths: tuple[str, ...]  # no one of them inside another
    links: tuple[tuple[str, str], ...]  # (leads to, name)
    devices: tuple[str, ...]


@cache
def python_view() -> View:
    """The view of the interpreter that runs this, or of the one that its virtual environment was made from."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    needed = ["/usr", "/etc/ld.so.cache", executable]
    for prefix in (os.path.dirname(os.path.dirname(executable)), sys.base_prefix, sys.base_exec_prefix):
        needed += [os.path.realpath(os.path.join(prefix, name)) for name in ("lib", "lib64")]
    needed += [os.path.realpath(path) for name in ("stdlib", "platstdlib") if (path := _base_path(name))]
    links = tuple((os.readlink(name), name) for name in _SYSTEM if os.path.islink(name))
    needed += [name for name in _SYSTEM if os.path.isdir(name) and not os.path.islink(name)]
    paths: list[str] = []
    for path in sorted(filter(os.path.exists, set(needed)), key=len):
        if not any(Path(path).is_relative_to(other) for other in paths):
            paths.append(path)
    return View(executable, tuple(paths), links, tuple(filter(os.path.exists, _DEVICES)))


def _base_path(name: str) -> str | None:
    base = {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    return sysconfig.get_path(name, vars={**base, "base": sys.base_prefix, "platbase": sys.base_exec_prefix})
