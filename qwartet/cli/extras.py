"""Checks that the packages of an extra are installed, before anything is read or loaded."""

from __future__ import annotations

from importlib.util import find_spec

from qwartet.errors import SettingError


def require(extra: str, verb: str, *modules: str) -> None:
    """SettingError if one of the modules of an extra is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise SettingError(f"{verb} needs {', '.join(missing)}; install it: pip install 'qwartet[{extra}]'")
