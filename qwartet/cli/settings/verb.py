"""`qwartet config`: what every option of a verb is, and where that was found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from qwartet.cli.options import AsJson
from qwartet.cli.settings.configuration import (
    default_file,
    file_in_use,
    is_secret,
    known_variables,
    origin,
    settings,
)
from qwartet.cli.terminal import json_line, one_line
from qwartet.errors import SettingError

HIDDEN = "********"


def config(
    context: typer.Context,
    verb: Annotated[
        str | None, typer.Argument(metavar="VERB", help="The verb; options may follow, as on its own command line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the settings of a verb and where each one comes from.

    Without VERB, it shows what is set at all. An option is taken from the first of these that has it: the command line
    (--top-k 5), QWARTET_CHAT_TOP_K, QWARTET_TOP_K, the section chat: of the file, its section all:, the default. The
    file is --config, else $QWARTET_CONFIG, else ~/.config/qwartet/config.yaml. An empty variable is not set; in one for
    a repeatable option, spaces separate values.
    """
    report = _settings_in_use(context) if verb is None else _options(context, [verb, *context.args])
    if as_json:
        print(json_line(report))
        return
    print(one_line(report["file"] or f"no file of settings; {default_file()} would be read"))
    rows = report["options"]
    width = max((len(row["option"]) for row in rows), default=0)
    value_width = min(max((len(_text(row["value"])) for row in rows), default=0), 40)
    for row in rows:
        line = f"  {row['option']:<{width}}  {_text(row['value']):<{value_width}}  {row['origin'] or row['source']}"
        print(one_line(line.rstrip()))


def _settings_in_use(context: typer.Context) -> dict[str, Any]:
    """The file, and the variables that are set."""
    known = known_variables(context.find_root().command)
    rows = [
        {
            "option": name,
            "value": _shown(name.lower().replace("_", "-"), value),
            "source": "environment",
            "origin": None,
        }
        for name, value in sorted(os.environ.items())
        if name in known and value
    ]
    return {"verb": None, "file": _file(context), "options": rows}


def _options(context: typer.Context, arguments: Sequence[str]) -> dict[str, Any]:
    """Every option of a verb, as it would be for these arguments."""
    command: Any = context.find_root().command
    path: list[str] = []
    rest = list(arguments)
    while hasattr(command, "commands"):
        if not rest:
            names = ", ".join(command.commands)
            raise SettingError(f"{' '.join(path)} has verbs of its own; name one of {names}")
        name, command, rest = command.resolve_command(context, rest)
        path.append(name)
    command = copy(command)
    command.params = [copy(parameter) for parameter in command.params]
    for parameter in command.params:
        parameter.required = False  # what is missing is shown as such
    inner = command.make_context(" ".join(path), rest, parent=context.find_root())
    rows = []
    for key, parameter in settings(command).items():
        source = inner.get_parameter_source(parameter.name)
        rows.append(
            {
                "option": max(parameter.opts, key=len) if parameter.param_type_name == "option" else key.upper(),
                "value": _shown(key, inner.params[parameter.name]),
                "source": _SOURCES[source.name],
                "origin": origin(inner, parameter),
            }
        )
    return {"verb": " ".join(path), "file": _file(context), "options": rows}


_SOURCES = {"COMMANDLINE": "command line", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}


def _file(context: typer.Context) -> str | None:
    file = file_in_use(context)
    return None if file is None else str(file)


def _shown(key: str, value: Any) -> Any:
    """A value as plain JSON; of a secret one, only whether it is set."""
    if value is None or value == () or value == []:
        return None
    if is_secret(key):
        return HIDDEN
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
