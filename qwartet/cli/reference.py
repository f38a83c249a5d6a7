"""What are all the verbs and their options? `python -m qwartet.cli.reference > docs/cli.md` writes it down.

Everything is read off the commands, in their order: a table row has an option's flags and value, its name in the
environment, its default and its help. A test holds docs/cli.md to what this writes.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from qwartet.cli.main import command_tree
from qwartet.cli.settings.configuration import OTHER_VARIABLES, SHARED, settings, variables

INTRODUCTION = f"""# Commands

Written by `make docs` from the commands themselves; change them, not this file. `qwartet VERB --help` shows the same.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 requests failed
(`run-batch`), the installation needs repair (`doctor`), the reader of the output went away, or a bug of ours;
2 something that you can fix (one line on stderr says what); 130 Ctrl-C.

Every verb takes `--config FILE` and `--help`; `--debug`, before or after the verb, prints the traceback of a failure.
`qwartet --install-completion` lets the shell complete verbs and options.

`--lang zh` or `--lang en`, before or after the verb, sets the language of help, errors and results; otherwise
`QWARTET_LANG` does, then the locale (`LC_ALL`, `LC_MESSAGES`, `LANG`). JSON, exit codes and the server's log are the
same in both.

## Settings

The value of an option is the first of these that is there; `qwartet config VERB` shows which it is.

| place | example |
|---|---|
| the command line | `qwartet chat --top-k 5` |
| the environment, for one verb | `QWARTET_CHAT_TOP_K=5`; of `bench throughput`: `QWARTET_BENCH_THROUGHPUT_SEED=5` |
| the environment, for every verb that has the option | `QWARTET_TOP_K=5` |
| the file, for one verb | `chat: {{top-k: 5}}`; `bench: {{throughput: {{seed: 5}}}}` |
| the file, for every verb that has the option | `{SHARED}: {{top-k: 5}}` |
| the default | |

- **Environment**: an empty variable is not set. For a flag, `1`, `true`, `yes` and `on` or their opposites; for a
  repeatable option, several values with spaces between them. A name that is nearly right is warned of.
- **File**: YAML, at `--config FILE`, else `$QWARTET_CONFIG`, else `$XDG_CONFIG_HOME/qwartet/config.yaml`, else
  `~/.config/qwartet/config.yaml`; `--config /dev/null` reads none. A key is an option without its dashes, with `-` or
  `_` inside. A value is text as it would stand on the command line; for a repeatable option, a list is possible. A key
  with nothing behind it is not set. Unknown verbs and options are refused, with their line.
- **MODEL** can be set like an option: `QWARTET_MODEL`, `model:`.
- A flag without a `no-` form that a file sets is taken back by the environment: `QWARTET_QUIET=0`.
- API keys may stand in both; `qwartet config` never shows them.

```yaml
{SHARED}:
  threads: 8
  max-model-len: 8k
chat:
  model: /models/Qwen-7B-Chat-Int4
  system: Answer in one sentence.
```

Other variables: {", ".join(f"`{name}`" for name in sorted(OTHER_VARIABLES) if name != "QWARTET_GOLDEN")}.
"""


def reference() -> str:
    """The text of docs/cli.md."""
    return "\n".join([INTRODUCTION, *_commands(command_tree(), ("qwartet",))])


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield f"## {' '.join((*path, name))}\n\n{_sentence(command.help)}\n"
            yield from _commands(command, (*path, name))
        elif not command.hidden:
            yield from _command(command, (*path, name))


def _command(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    keys = {parameter.name: key for key, parameter in settings(command).items()}
    usage = " ".join([*path, "[OPTIONS]", *(_argument_name(argument) for argument in arguments)])
    yield f"{'#' * len(path)} {' '.join(path)}\n\n    {usage}\n\n{_sentence(command.help)}\n"
    if arguments:
        yield "| argument | environment | default | meaning |\n|---|---|---|---|"
        for argument in arguments:
            variable = variables(path[1:], keys[argument.name])[-1] if argument.name in keys else ""
            name = argument.metavar or argument.name.upper()
            yield _row(_code(name), _code(variable), _default(argument), argument.help)
        yield ""
    options = [parameter for parameter in command.params if parameter not in arguments and parameter.name in keys]
    if options:
        yield "| option | environment | default | meaning |\n|---|---|---|---|"
        for option in options:
            variable = variables(path[1:], keys[option.name])[-1]
            yield _row(_flags(option, hints[option.name]), _code(variable), _default(option), option.help)
        yield ""


def _argument_name(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _flags(option: Any, hint: Any) -> str:
    """`-p`, `--prompt TEXT`, as code; both forms of a switch."""
    *short, long = sorted(option.opts, key=len)
    value = "" if option.is_flag else f" {option.metavar or _value_name(hint)}"
    names = [*short, long + value, *option.secondary_opts]
    return ", ".join(map(_code, names)) + (" (repeatable)" if option.multiple else "")


def _value_name(hint: Any) -> str:
    """What is to be written for a type: the choices, or a word."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in (Annotated, list):
        return _value_name(parts[0])
    if origin in (Union, types.UnionType):
        return _value_name(next(part for part in parts if part is not type(None)))
    return {int: "INT", float: "NUMBER", Path: "PATH"}.get(hint, "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    default = parameter.default
    if isinstance(default, bool):
        return "on" if default else "off"
    return "" if default in (None, (), []) else _code(default)


def _sentence(help_text: str | None) -> str:
    """A verb's help; what looks like HTML or a table would be taken for it."""
    return inspect.cleandoc(help_text or "").replace("<", "&lt;")


def _code(text: object) -> str:
    return f"`{text}`".replace("|", "\\|") if text != "" else ""


def _row(*cells: str | None) -> str:
    return f"| {' | '.join((cell or '').strip() for cell in cells)} |"


if __name__ == "__main__":
    print(reference(), end="")
