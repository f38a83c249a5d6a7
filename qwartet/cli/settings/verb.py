"""`qwartet config`: the value of every option of a verb, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.language.columns import padded, width_of
from qwartet.cli.options import AsJson
from qwartet.cli.settings.configuration import (
    default_file,
    file_in_use,
    is_secret,
    known_variables,
    origin,
    settings,
)
from qwartet.cli.terminal import json_line, one_line, untranslated_line
from qwartet.errors import SettingError

HIDDEN = "********"


def config(
    context: typer.Context,
    verb: Annotated[str | None, typer.Argument(metavar="COMMAND", help="Such as chat; its options may follow.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the settings of a command and where each comes from.

    Without COMMAND, it shows the settings file and the variables that are set. The first of these that sets an option
    wins: the command line (--top-k 5), QWARTET_CHAT_TOP_K, QWARTET_TOP_K, the section chat: of the settings file, its
    section all:, the default. The file is --config, else $QWARTET_CONFIG, else ~/.config/qwartet/config.yaml. An empty
    variable counts as unset; spaces separate the values of a repeatable option.
    """
    report = _settings_in_use(context) if verb is None else _options(context, [verb, *context.args])
    if as_json:
        print(json_line(report))
        return
    print(one_line(report["file"] or f"no settings file; {default_file()} would be read"))
    rows = report["options"]
    width = max((len(row["option"]) for row in rows), default=0)
    value_width = min(max((width_of(_text(row["value"])) for row in rows), default=0), 40)
    for row in rows:
        source = label(row["source"]) if row["origin"] is None else translate(row["origin"])
        print(untranslated_line(f"  {row['option']:<{width}}  {padded(_text(row['value']), value_width)}  {source}"))


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
            raise SettingError(f"{' '.join(path)} is a group of commands; name one of {names}")
        name, command, rest = command.resolve_command(context, rest)
        path.append(name)
    command = copy(command)
    command.params = [copy(parameter) for parameter in command.params]
    for parameter in command.params:
        parameter.required = False  # missing values are shown as such
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
    """A value as plain JSON; for a secret, only whether it is set."""
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
