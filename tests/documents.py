"""The documents as their tests see them: code blocks, headings, links, commands; and their examples run."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from typing import Any

from qwartet.cli.language.choice import take_language
from qwartet.cli.main import command_tree
from qwartet.cli.settings.configuration import known_variables, verbs
from tests.golden_data import REPOSITORY

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
_OPTION = re.compile(r"-[a-z]|--[a-z][a-z-]*")
_SHOWN = re.compile(r"^ *print\(.*\) +# (.*)$", re.MULTILINE)


def text_of(name: str) -> str:
    """The text of a document, named by its path in the repository."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The code blocks in a language: "python", "sh"."""
    return [code for _, found, code in _FENCE.findall(text_of(name)) if found == language]


def without_comments(block: str) -> str:
    """A block without its comments, which each language writes in its own words."""
    return re.sub(r"\s*#.*", "", block)


def prose(name: str) -> str:
    """A document without its code blocks."""
    return _FENCE.sub("", text_of(name))


def code_spans(name: str) -> list[str]:
    """The `code` in the prose."""
    return _SPAN.findall(prose(name))


def headings(name: str) -> list[tuple[int, str]]:
    """(level, title) of the headings, in order."""
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.*)$", prose(name), re.MULTILINE)]


def anchors(name: str) -> set[str]:
    """What can be linked to in a document, as GitHub and the site (mkdocs.yml) name headings."""
    titles = (title for _, title in headings(name))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(name: str) -> list[str]:
    """The targets of the links, pictures included."""
    return re.findall(r"\]\(([^)\s]+)\)", _SPAN.sub("", prose(name)))


def broken_links(name: str) -> list[str]:
    """Links to files of the repository, or headings in them, that do not exist."""
    here = (REPOSITORY / name).parent
    broken = []
    for link in links(name):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (here / path).resolve() if path else REPOSITORY / name
        if not target.exists() or (anchor and anchor not in anchors(str(target.relative_to(REPOSITORY)))):
            broken.append(link)
    return broken


# Commands


def shell_lines(name: str) -> Iterator[list[str]]:
    """The words of the commands in the ```sh blocks, continued lines joined and comments left out."""
    for block in blocks(name, "sh"):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def commands(name: str) -> list[list[str]]:
    """The arguments of each `qwartet ...` in the ```sh blocks."""
    found = []
    for words in shell_lines(name):
        own = [word for word in words if not _ASSIGNMENT.fullmatch(word)]
        if own and own[0] == "qwartet":
            found.append(own[1:])
    return found


def check_command(arguments: list[str]) -> None:
    """Raises what the command line would raise for these arguments; nothing is run."""
    path, rest = _split(take_language(arguments)[1])
    _context(verbs(command_tree())[path], rest)


def unknown_commands(name: str) -> list[str]:
    """The `code` in the prose that names a verb, an option, a value of one, or a variable that does not exist."""
    return [span for span in code_spans(name) if not _exists(span)]


def _exists(span: str) -> bool:
    """Whether what a `code` names exists; True for code that is no command, option or variable of ours."""
    tree = command_tree()
    if re.fullmatch(r"QWARTET_\w+", span):
        return span in known_variables(tree)
    if re.match(r"-", span):
        candidates, words = list(verbs(tree).values()), span.split()
    elif re.match(r"qwartet |[a-z-]+ --", span):
        try:
            path, words = _split(span.removeprefix("qwartet ").split())
        except KeyError:
            return False
        candidates = [verbs(tree)[path]]
    else:
        return True
    values = zip(words, [*words[1:], None], strict=True) if words else ()
    return all(_takes(candidates, word, value) for word, value in values if _OPTION.fullmatch(word))


def _context(verb: Any, arguments: list[str], **settings: Any) -> Any:
    """The arguments parsed below `qwartet`: a verb keeps the --help of its first context."""
    return verb.make_context(verb.name, arguments, **command_tree().context_settings, **settings)


def _split(arguments: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The path of the verb that a command line begins with, and the other words; KeyError for an unknown verb."""
    for length in (2, 1):
        if (path := tuple(arguments[:length])) in verbs(command_tree()):
            return path, arguments[length:]
    raise KeyError(f"qwartet has no verb {arguments[:1]}")


def _takes(candidates: list[Any], option: str, value: str | None) -> bool:
    """Whether one of these verbs takes an option, and this value for it; a word in capitals stands for any value."""
    if option in ("--lang", "--debug"):  # taken out before the verb parses its own
        return True
    is_value = value is not None and not value.startswith("-") and not re.fullmatch(r"[A-Z-]+", value)
    for verb in candidates:
        for parameter in verb.params:
            if option not in (*parameter.opts, *parameter.secondary_opts):
                continue
            if not is_value or getattr(parameter, "is_flag", False):
                return True
            context = _context(verb, [], resilient_parsing=True)
            with contextlib.suppress(Exception):  # not a value of it
                parameter.process_value(context, [value] if parameter.multiple else value)
                return True
    return False


# Examples


def run_example(block: str, names: dict[str, Any]) -> None:
    """Runs a Python block in a namespace, which it changes, and compares what it prints with what it shows.

    A block with >>> prompts is a doctest. In any other, a comment behind a print() is what that one prints.
    """
    if ">>> " in block:
        _run_doctest(block, names)
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "example", "exec"), names)
    assert printed.getvalue().splitlines() == _SHOWN.findall(block)


def _run_doctest(block: str, names: dict[str, Any]) -> None:
    report: list[str] = []
    test = doctest.DocTestParser().get_doctest(block, names, "example", None, 0)
    doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
    names.update(test.globs)  # the test has a copy
    assert not report, "".join(report)
