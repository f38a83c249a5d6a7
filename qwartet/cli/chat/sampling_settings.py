"""Sampling settings as users write them: names, values, and errors about them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import SettingError

SETTINGS: dict[str, type] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "max_tokens": int,
    "seed": int,
    "stop": str,
}
_OTHER_NAMES = {"max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}
_MAX_NUMBER_CHARS = 40


def setting_name(text: str) -> str:
    """The setting for a name or an unambiguous prefix; SettingError with a suggestion otherwise."""
    name = text.removeprefix("--").replace("-", "_")
    name = _OTHER_NAMES.get(name, name)
    longer = [known for known in SETTINGS if known.startswith(name)]
    if name in SETTINGS or len(longer) == 1:
        return name if name in SETTINGS else longer[0]
    near = longer or difflib.get_close_matches(name, SETTINGS, n=1)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it must be one of {', '.join(SETTINGS)}"
    raise SettingError(f"unknown sampling setting {text!r:.80}; {hint}")


def setting_value(name: str, text: str) -> Any:
    """The value of a setting from its text; SettingError says what it must be."""
    kind = SETTINGS[name]
    value: Any = (text,) if kind is str else text[:_MAX_NUMBER_CHARS]
    if kind is not str and text.isascii() and "_" not in text and len(text) <= _MAX_NUMBER_CHARS:
        with suppress(ValueError):  # the check below says what it must be
            value = kind(text)
    return checked({name: value})[name]


def checked(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, if all of them are known and within their bounds; SettingError otherwise."""
    for name in sampling:
        if name not in SETTINGS:
            setting_name(name)
            raise SettingError(f"unknown sampling setting {name!r:.80}; write {setting_name(name)}")
    params = SamplingParams().updated(sampling)
    return {name: getattr(params, name) for name in sampling}


def shown(value: Any) -> str:
    """A value as users read it."""
    return " ".join(map(repr, value)) if isinstance(value, tuple) else f"{value}"
