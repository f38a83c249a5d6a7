"""What is to be written for an option or argument? TEXT, INT or its choices, not Typer's names of Python types."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


def name_values(command: Any) -> None:
    """Names the values of a verb's parameters that have no name of their own."""
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for parameter in command.params:
        if parameter.metavar is None and parameter.name in hints and not getattr(parameter, "is_flag", False):
            is_argument = parameter.param_type_name == "argument"
            parameter.metavar = parameter.name.upper() if is_argument else _value_name(hints[parameter.name])


def _value_name(hint: Any) -> str:
    """The choices of a type, or a word for its values."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in (Annotated, list):
        return _value_name(parts[0])
    if origin in (Union, types.UnionType):
        return _value_name(next(part for part in parts if part is not type(None)))
    return {int: "INT", float: "NUMBER", Path: "PATH"}.get(hint, "TEXT")
