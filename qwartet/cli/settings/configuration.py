"""Where does the value of an option come from? Of these, the first that has it:

    qwartet serve --port 9000        the command line
    QWARTET_SERVE_PORT=9000          the environment, for one verb
    QWARTET_PORT=9000                the environment, for every verb that has the option
    serve: {port: 9000}              the file, for one verb
    all: {port: 9000}                the file, for every verb that has the option
                                     the default

The choice is click's own: its parameters are told their names in the environment, and the file becomes the default map
of the verb's context, so that a value is checked in one way wherever it stands. MODEL can be set too, though it is an
argument. The file is --config, else $QWARTET_CONFIG, else the one of `default_file`, if there is one.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from qwartet.cli.settings.config_file import Entry, read_config_file
from qwartet.errors import SettingError

# Typer has click under a name that has changed; these are its classes.
Command = Any
Parameter = Any

PREFIX = "QWARTET_"
SHARED = "all"  # the section for every verb
# Read elsewhere than here: by the frame of all verbs, the cache, the choice of kernels, and the tests.
OTHER_VARIABLES = (
    "QWARTET_CONFIG", "QWARTET_DEBUG", "QWARTET_LANG", "QWARTET_CACHE", "QWARTET_CPU_ISA", "QWARTET_GOLDEN",
)  # fmt: skip

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", envvar="QWARTET_CONFIG", show_envvar=False, help="YAML file of settings."),
]

_ORIGINS, _FILE = "qwartet.origins", "qwartet.config_file"
_SECRET = re.compile(r"(?:^|-)(?:key|token|password|secret)$")
_MAX_CHECKED_VARIABLES = 64


def make_configurable(root: Command) -> Command:
    """Lets the options of all verbs below a command be set by the environment and a file; returns the command."""
    (option,) = (parameter for parameter in root.params if parameter.name == "config")
    for path, command in verbs(root).items():
        for key, parameter in settings(command).items():
            parameter.envvar = variables(path, key)
            parameter.show_envvar = False  # the rule is shorter than the names
        own = copy.copy(option)
        # Eager: the file is read before other options look for their values, and not at all for --help.
        own.envvar, own.is_eager, own.expose_value = None, True, False
        own.callback = partial(_use_file, path)
        command.params = [*command.params, own]
    return root


def verbs(root: Command, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Command]:
    """The commands that do something, by the names that lead to them: ("bench", "throughput")."""
    found: dict[tuple[str, ...], Command] = {}
    for name, command in root.commands.items():
        found |= verbs(command, (*path, name)) if hasattr(command, "commands") else {(*path, name): command}
    return found


def settings(command: Command) -> dict[str, Parameter]:
    """What can be set of a verb, by its key in a file: "top-k" for --top-k, "model" for MODEL."""
    found: dict[str, Parameter] = {}
    for parameter in sorted(command.params, key=lambda parameter: parameter.param_type_name):  # arguments first
        if parameter.param_type_name == "argument":
            if parameter.name == "model":
                found["model"] = parameter
        elif parameter.name not in ("config", "help"):
            key = max(parameter.opts, key=len).lstrip("-")
            found[parameter.name.replace("_", "-") if key in found else key] = parameter  # a --model beside MODEL
    return found


def variables(path: tuple[str, ...], key: str) -> list[str]:
    """The names of an option in the environment, the one that wins first."""
    return [PREFIX + "_".join(parts).replace("-", "_").upper() for parts in ((*path, key), (key,))]


def known_variables(root: Command) -> set[str]:
    """Every QWARTET_* variable that something reads."""
    named = {
        name for path, command in verbs(root).items() for key in settings(command) for name in variables(path, key)
    }
    return named | set(OTHER_VARIABLES)


def near_misses(root: Command) -> Iterator[str]:
    """A line for each variable that is not ours and is spelt nearly like one that is; others may use the prefix."""
    known = known_variables(root)
    ours = {name.removeprefix(PREFIX) for name in known}
    strangers = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    for name in strangers[:_MAX_CHECKED_VARIABLES]:
        guess = closest(name.removeprefix(PREFIX).upper(), ours, cutoff=0.8)
        if guess is not None:
            yield f"{name} sets nothing; did you mean {PREFIX}{guess}?"


def is_secret(key: str) -> bool:
    """Whether the value of an option is never to be shown."""
    return _SECRET.search(key) is not None


def default_file() -> Path:
    """$XDG_CONFIG_HOME/qwartet/config.yaml, else ~/.config/qwartet/config.yaml; it need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "qwartet", "config.yaml")


def file_in_use(context: typer.Context) -> Path | None:
    """The file that a command line reads; None where there is none."""
    chosen: Path | None = context.meta.get(_FILE) or context.find_root().params.get("config")
    return chosen or (default_file() if default_file().exists() else None)


def typed_or_set(context: typer.Context, name: str) -> tuple[str | None, str | None]:
    """A parameter of the running verb as text: from the command line, and as it would be without."""
    parameter = next(parameter for parameter in context.command.params if parameter.name == name)
    source = context.get_parameter_source(name)
    is_typed = source is not None and source.name == "COMMANDLINE"
    value, _ = parameter.consume_value(context, {})
    return context.params[name] if is_typed else None, value if isinstance(value, str) else None


def origin(context: typer.Context, parameter: Parameter) -> str | None:
    """Where a value was found: a variable, or file, line and key; None for the command line and defaults."""
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name not in ("ENVIRONMENT", "DEFAULT_MAP"):
        return None
    if source.name == "DEFAULT_MAP":
        place: str = context.meta[_ORIGINS][parameter.name]
        return place
    names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
    return next(name for name in names if os.environ.get(name))


def closest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _use_file(path: tuple[str, ...], context: typer.Context, parameter: Parameter, value: Path | None) -> None:
    """Callback of a verb's --config: what the file says becomes the default map of the verb."""
    if context.resilient_parsing:  # a shell asks for completions
        return
    if value is not None:
        context.meta[_FILE] = value
    file = file_in_use(context)
    if file is None:
        return
    sections = dict(_sections(read_config_file(file), context.find_root().command, (), str(file)))
    known = settings(context.command)
    context.default_map, context.meta[_ORIGINS] = {}, {}
    for section in ((SHARED,), path):
        for key, entry in sections.get(section, {}).items():
            if key not in known or entry.content is None:
                continue
            name, place = known[key].name, f"{file}: line {entry.line}: {'.'.join(section)}.{key}"
            context.default_map[name] = _shaped(entry, known[key], place)
            context.meta[_ORIGINS][name] = place


def _shaped(entry: Entry, parameter: Parameter, place: str) -> str | list[str]:
    """A value as click takes it from a file: a list for what is repeatable, text for everything else."""
    if parameter.multiple:
        if not isinstance(entry.content, dict | None):
            return [entry.content] if isinstance(entry.content, str) else entry.content
        raise SettingError(f"{place} is a section; write a value, or a list of them")
    if not isinstance(entry.content, str):
        raise SettingError(f"{place} takes one value, not a {type(entry.content).__name__}; write it behind the colon")
    return entry.content


def _sections(
    entries: dict[str, Entry], group: Command, path: tuple[str, ...], file: str
) -> Iterator[tuple[tuple[str, ...], dict[str, Entry]]]:
    """The sections of a file by their path; SettingError for a name that is neither verb nor option."""
    shared = {} if path else {key for command in verbs(group).values() for key in settings(command)}
    for name, (line, content) in entries.items():
        inside = (*path, name)
        place = f"{file}: line {line}: {'.'.join(inside)}"
        command = group.commands.get(name)
        if command is None and (path or name != SHARED):
            advice = _advice(name, [*group.commands, *(() if path else (SHARED,))])
            advice = f"options stand in the section of a verb, or in {SHARED}" if name in shared else advice
            raise SettingError(f"{place} is no verb; {advice}")
        if isinstance(content, str | list):
            raise SettingError(f"{place} is no section; write {name}: {{OPTION: VALUE}}")
        section = content or {}
        if hasattr(command, "commands"):
            yield from _sections(section, command, inside, file)
            continue
        known = shared if command is None else settings(command)
        for key, entry in section.items():
            if key not in known:
                place = f"{file}: line {entry.line}: {'.'.join(inside)}.{key}"
                raise SettingError(f"{place} is no option; {_advice(key, known)}")
        yield inside, section


def _advice(name: str, known: Collection[str]) -> str:
    positive = name.removeprefix("no-")
    if positive in known:
        return f"write {positive}: false"
    guess = closest(name, known)
    return f"did you mean {guess}?" if guess else f"it must be one of {', '.join(sorted(known))}"
