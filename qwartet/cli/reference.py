"""What are all the verbs and their options? `python -m qwartet.cli.reference > docs/cli.md` writes the document.

Everything is read from the commands, in their order: a table row has an option's flags and value, its environment
variable, its default and its help. A test compares docs/cli.md with this output.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from qwartet.cli.main import command_tree
from qwartet.cli.settings.configuration import OTHER_VARIABLES, SHARED, settings, variables

INTRODUCTION = f"""# Commands

Written by `make docs` from the commands; change them, not this file. `qwartet COMMAND --help` shows the same.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 failed requests (`run-batch`), a faulty
installation (`doctor`), a closed output pipe, or a bug in Qwartet; 2 an error that you can fix (one line on stderr says
how); 130 Ctrl-C.

Every command accepts `--config FILE` and `--help`; `--debug`, before or after the command, prints the traceback of an
error. `qwartet --install-completion` sets up shell completion of commands and options.

`--lang zh` or `--lang en`, before or after the verb, sets the language of help, errors and results; otherwise
`QWARTET_LANG` does, then the locale (`LC_ALL`, `LC_MESSAGES`, `LANG`). JSON, exit codes and the server's log are the
same in both.

## Settings

The first of these sources that sets an option wins; `qwartet config COMMAND` shows which one it is.

| source | example |
|---|---|
| the command line | `qwartet chat --top-k 5` |
| the environment, for one command | `QWARTET_CHAT_TOP_K=5`; for `bench throughput`: `QWARTET_BENCH_THROUGHPUT_SEED=5` |
| the environment, for every command with the option | `QWARTET_TOP_K=5` |
| the settings file, for one command | `chat: {{top-k: 5}}`; `bench: {{throughput: {{seed: 5}}}}` |
| the settings file, for every command with the option | `{SHARED}: {{top-k: 5}}` |
| the default | |

- **Environment**: an empty variable counts as unset. Flags take `1`, `true`, `yes`, `on` and their opposites;
  repeatable options take several values separated by spaces. A misspelt name causes a warning.
- **Settings file**: YAML, at `--config FILE`, else `$QWARTET_CONFIG`, else `$XDG_CONFIG_HOME/qwartet/config.yaml`, else
  `~/.config/qwartet/config.yaml`; `--config /dev/null` reads none. A key is the name of an option without the leading
  dashes, with `-` or `_` inside. A value is text, as on the command line; a repeatable option also accepts a list. A
  key without a value counts as unset. Unknown commands and options are rejected, with their line.
- **MODEL** can be set like an option: `QWARTET_MODEL`, `model:`.
- The environment can undo a flag that the file sets and that has no `--no-` form: `QWARTET_QUIET=0`.
- Both can hold API keys; `qwartet config` never shows them.

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
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    keys = {parameter.name: key for key, parameter in settings(command).items()}
    usage = " ".join([*path, "[OPTIONS]", *(_argument_name(argument) for argument in arguments)])
    yield f"{'#' * len(path)} {' '.join(path)}\n\n    {usage}\n\n{_sentence(command.help)}\n"
    if arguments:
        yield "| argument | environment | default | meaning |\n|---|---|---|---|"
        for argument in arguments:
            variable = variables(path[1:], keys[argument.name])[-1] if argument.name in keys else ""
            yield _row(_code(argument.metavar), _code(variable), _default(argument), argument.help)
        yield ""
    options = [parameter for parameter in command.params if parameter not in arguments and parameter.name in keys]
    if options:
        yield "| option | environment | default | meaning |\n|---|---|---|---|"
        for option in options:
            variable = variables(path[1:], keys[option.name])[-1]
            yield _row(_flags(option), _code(variable), _default(option), option.help)
        yield ""


def _argument_name(argument: Any) -> str:
    return argument.metavar if argument.required else f"[{argument.metavar}]"


def _flags(option: Any) -> str:
    """`-p`, `--prompt TEXT`, as code; both forms of a switch."""
    *short, long = sorted(option.opts, key=len)
    value = "" if option.is_flag else f" {option.metavar}"
    names = [*short, long + value, *option.secondary_opts]
    return ", ".join(map(_code, names)) + (" (repeatable)" if option.multiple else "")


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
    """A command's help, with what looks like HTML escaped."""
    return inspect.cleandoc(help_text or "").replace("<", "&lt;")


def _code(text: object) -> str:
    return f"`{text}`".replace("|", "\\|") if text != "" else ""


def _row(*cells: str | None) -> str:
    return f"| {' | '.join((cell or '').strip() for cell in cells)} |"


if __name__ == "__main__":
    print(reference(), end="")
