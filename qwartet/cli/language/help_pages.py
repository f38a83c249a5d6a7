"""`--help` in Chinese: the texts of the commands, click's own words, and a layout for double-width characters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from qwartet.cli.language.catalogue import Catalogue
from qwartet.cli.language.columns import padded, width_of, wrapped

_EXTRAS = re.compile(r"(.*?)(?:^|  )\[([^\[\]]*)\]", re.DOTALL)  # "What it is.  [default: 8; required]"


def translate_help(root: Any, catalogue: Catalogue) -> Any:
    """Has a command and all below it show their help in Chinese; returns the command."""
    layout = type("_Layout", (ChineseLayout, root.context_class.formatter_class), {"catalogue": catalogue})
    context = type("_Context", (root.context_class,), {"formatter_class": layout})
    _translate_command(root, catalogue, context)
    return root


def _translate_command(command: Any, catalogue: Catalogue, context: type) -> None:
    command.context_class = context
    paragraphs = [" ".join(text.split()) for text in inspect.cleandoc(command.help or "").split("\n\n")]
    translated = list(map(catalogue.translate, paragraphs))
    command.help, command.short_help = "\n\n".join(translated), translated[0]
    command.options_metavar = catalogue.label(command.options_metavar or "")
    for parameter in command.params:
        parameter.help = catalogue.translate(parameter.help or "")
        if isinstance(parameter.show_default, str):
            parameter.show_default = catalogue.translate(parameter.show_default)
    if hasattr(command, "commands"):
        command.subcommand_metavar = catalogue.label(command.subcommand_metavar)
        for below in command.commands.values():
            _translate_command(below, catalogue, context)


class ChineseLayout:
    """What click's HelpFormatter writes, in Chinese; mixed into it."""

    catalogue: Catalogue
    width: int
    current_indent: int
    write: Callable[[str], None]

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """The line that shows how a command is written."""
        start = f"{self.catalogue.label('Usage')}：{prog} "
        self._write_lines(start, width_of(start), args)

    def write_heading(self, heading: str) -> None:
        """The line above a table."""
        self.write(f"{'':{self.current_indent}}{self.catalogue.label(heading)}：\n")

    def write_text(self, text: str) -> None:
        """Paragraphs."""
        for number, paragraph in enumerate(text.split("\n\n")):
            indent = " " * self.current_indent
            self._write_lines("\n" * (number > 0) + indent, len(indent), paragraph)

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """A table of names and what they mean; a long name has a line of its own."""
        column = min(max(width_of(name) for name, _ in rows), col_max) + col_spacing
        for name, meaning in rows:
            indent = self.current_indent + column
            start = f"{'':{self.current_indent}}{name}"
            if width_of(name) > column - col_spacing:
                start += "\n" + " " * indent
            self._write_lines(start if "\n" in start else padded(start, indent), indent, self._meaning(meaning))

    def _meaning(self, text: str) -> str:
        """Help with what click adds to it."""
        match = _EXTRAS.fullmatch(text)
        if match is None:
            return self.catalogue.translate(text)
        extras = "；".join(self._extra(extra) for extra in match[2].split("; "))
        return f"{self.catalogue.translate(match[1])}  [{extras}]".strip()

    def _extra(self, text: str) -> str:
        return self.catalogue.translate(text) if " " in text else self.catalogue.label(text)

    def _write_lines(self, start: str, indent: int, text: str) -> None:
        lines = wrapped(text, max(self.width - indent, 10))
        self.write(start + ("\n" + " " * indent).join(lines) + "\n")
