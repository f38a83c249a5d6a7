"""The command `qwartet`: its verbs, and the one place where a failure becomes a line and an exit code.

    0 done   1 a bug in Qwartet, a closed output pipe, or a failure that the output describes
    2 an error that the user can fix   130 Ctrl-C

Results go to stdout, everything else to stderr. Each verb imports what it needs when it runs: `qwartet --help` loads
no torch.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, TextIO

import typer

from qwartet import __version__
from qwartet.cli import failures
from qwartet.cli.bench import verbs as bench
from qwartet.cli.cache import cache
from qwartet.cli.card import card
from qwartet.cli.chat.verb import chat
from qwartet.cli.convert import convert
from qwartet.cli.doctor import doctor
from qwartet.cli.evaluate.verb import evaluate
from qwartet.cli.finetune import finetune
from qwartet.cli.help import help_on
from qwartet.cli.inspect import inspect
from qwartet.cli.language.catalogue import chinese, use_language
from qwartet.cli.language.choice import chosen_language, take_language
from qwartet.cli.language.help_pages import translate_help
from qwartet.cli.list_models import list_models
from qwartet.cli.merge import merge
from qwartet.cli.plan.verb import plan
from qwartet.cli.profile.verb import profile
from qwartet.cli.pull import pull
from qwartet.cli.quantize import quantize
from qwartet.cli.rm import rm
from qwartet.cli.run_batch import run_batch
from qwartet.cli.serve import serve
from qwartet.cli.settings.configuration import ConfigFile, make_configurable, near_misses, verbs
from qwartet.cli.settings.verb import config
from qwartet.cli.show import show
from qwartet.cli.synth import synth
from qwartet.cli.terminal import error_line, guard_terminals
from qwartet.cli.value_names import name_values
from qwartet.cli.verify import verify
from qwartet.cli.vocab import app as vocab
from qwartet.errors import QwartetWarning


def _with_dashes(token: str) -> str:
    """An option as this program spells it: published scripts have underscores in theirs."""
    return token.replace("_", "-")


# Plain help, not panels: it starts twice as fast and greps well.
app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.command()(chat)
app.command()(serve)
app.command()(pull)
app.command("list")(list_models)
app.command("ls", hidden=True)(list_models)
app.command()(show)
app.command()(verify)
app.command()(rm)
app.command()(inspect)
app.command()(plan)
app.command()(quantize)
app.command(context_settings={"token_normalize_func": _with_dashes})(finetune)
app.command()(merge)
app.command()(evaluate)
app.command()(profile)
app.command()(card)
app.command()(convert)
app.command()(run_batch)
app.add_typer(vocab, name="vocab")
app.command()(synth)
app.command()(cache)
app.command()(doctor)
app.command("help")(help_on)
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(config)
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"qwartet {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def qwartet(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error (also QWARTET_DEBUG=1).")
    ] = False,
    lang: Annotated[
        str | None,
        typer.Option(
            "--lang", metavar="zh|en", help="Language of help and messages; also QWARTET_LANG, or the locale."
        ),
    ] = None,  # taken out of the arguments before they are parsed, as --debug is
    config: ConfigFile = None,  # read by the verb that runs, which may have its own
) -> None:
    """Run first-generation Qwen models. `qwartet chat` starts a conversation with the bundled model.

    Every option can also be set in the environment (QWARTET_TOP_K for --top-k) or in a settings file; see
    qwartet config --help.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
    else:
        for text in near_misses(context.command):
            print(error_line(f"warning: {text}"), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line (that of the process when None) and exits; the entry point of the package."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; returns the exit code. Every failure is one line on stderr."""
    debug, arguments = _take_debug(arguments)
    given, arguments = take_language(arguments)
    _forgive_encoding_errors()
    guard_terminals()
    warnings.showwarning = _show_warning
    try:
        language = chosen_language(given)
        use_language(language)
        code = command_tree(language).main(list(arguments), prog_name="qwartet", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:
        _discard_stdout()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError):
            _discard_stdout()  # what is buffered may be what could not be written
        text = failures.message(error)
        bug = f"{type(error).__name__}: {error}; this is a bug in Qwartet: report it with the output of --debug"
        print(error_line(f"error: {bug if text is None else text}"), file=sys.stderr)
        return 1 if text is None else 2
    finally:
        use_language("en")


def command_tree(language: str = "en") -> Any:
    """The command with all its verbs, whose options can also come from the environment and a file."""
    return _command_tree(language)


@functools.cache
def _command_tree(language: str) -> Any:
    root = make_configurable(typer.main.get_command(app))
    for command in verbs(root).values():
        name_values(command)
    return translate_help(root, chinese()) if language == "zh" else root


def _take_debug(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether --debug was given, before or after the verb, and the other arguments; after "--" all is text."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    in_environment = os.environ.get("QWARTET_DEBUG", "0") not in ("", "0")
    return in_environment or len(options) < end, [*options, *arguments[end:]]


def _forgive_encoding_errors() -> None:
    """Undecodable input and unencodable output are replaced or escaped instead of ending the program."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _discard_stdout() -> None:
    """Lets the interpreter's last flush succeed when stdout cannot be written any more."""
    with suppress(OSError, ValueError):  # a stream that is closed or not a file needs no flush
        descriptor = sys.stdout.fileno()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)


_show_other_warning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, QwartetWarning):
        print(error_line(f"warning: {message}"), file=sys.stderr)
    else:
        _show_other_warning(message, category, filename, lineno, file, line)


if __name__ == "__main__":
    main()
