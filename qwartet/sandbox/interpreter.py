"""What Python needs of the file system: its executable and library, the system's libraries, packages if asked for.

Nothing of a user's but these.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_PACKAGE_DIRECTORIES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class View:
    """What a sandboxed program sees: paths under their own names, read-only, and links."""

    executable: str
    paths: tuple[str, ...]  # no one of them inside another
    links: tuple[tuple[str, str], ...]  # (leads to, name)
    devices: tuple[str, ...]
    packages: tuple[str, ...] = ()  # directories of packages, seen under the names of `package_place`


@cache
def python_view(packages: tuple[str, ...] = ()) -> View:
    """The view of the interpreter that runs this, or of the one that its virtual environment was made from.

    `packages`: directories of packages that are seen too.
    """
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
    return View(executable, tuple(paths), links, tuple(filter(os.path.exists, _DEVICES)), packages)


def package_place(number: int) -> str:
    """Where a sandboxed program finds a directory of packages: the same on every machine, and never below /tmp."""
    return f"/packages/{number}"


def package_directories(names: Iterable[str]) -> tuple[str, ...]:
    """The directories that these packages are installed in; one that is missing, or lies elsewhere, has none."""
    specs = [spec for name in names if (spec := find_spec(name)) is not None and spec.origin is not None]
    found = {os.path.realpath(Path(str(spec.origin)).parent.parent) for spec in specs}
    return tuple(sorted(path for path in found if os.path.basename(path) in _PACKAGE_DIRECTORIES))


def _base_path(name: str) -> str | None:
    base = {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    return sysconfig.get_path(name, vars={**base, "base": sys.base_prefix, "platbase": sys.base_exec_prefix})
