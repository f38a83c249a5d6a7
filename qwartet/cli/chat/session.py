"""A conversation at a terminal: reads messages and commands, shows answers as they are generated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from qwartet.cli.chat.commands import PROMPT, Commands
from qwartet.cli.chat.conversant import Conversant
from qwartet.cli.chat.conversation import Conversation
from qwartet.cli.chat.dialogue import Dialogue, say
from qwartet.cli.terminal import whole_text

BLOCK = '"""'

ReadMessage = Callable[[str], str]
"""Takes a draft to edit, returns what was entered; raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""


def is_open_block(text: str) -> bool:
    """Whether a message starts a block that has not ended: more lines belong to it."""
    return text.startswith(BLOCK) and (len(text.rstrip()) < 2 * len(BLOCK) or not text.rstrip().endswith(BLOCK))


def read_plainly(_: str) -> str:
    """The next message, without a line editor; the prompt goes to the terminal even when answers go to a file."""
    try:
        lines = [_plain_line(PROMPT)]
        while is_open_block(lines[0]) and (len(lines) == 1 or not lines[-1].rstrip().endswith(BLOCK)):
            lines.append(_plain_line(" " * len(PROMPT)))
    except (KeyboardInterrupt, EOFError):
        say("")  # the line that was not entered ends here
        raise
    return "\n".join(lines)


def _plain_line(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


class Session:
    """Reads messages and passes them on: commands to Commands, questions to the Dialogue."""

    def __init__(
        self, conversant: Conversant, *, system: str | None, sampling: dict[str, Any], wants_markdown: bool = False
    ) -> None:
        conversation = Conversation(system, [], dict(sampling))
        self.dialogue = Dialogue(conversant, conversation, wants_markdown=wants_markdown)
        self.commands = Commands(self.dialogue)

    def run(self, read: ReadMessage = read_plainly) -> None:
        """Reads and answers until the user leaves."""
        say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")
        while True:
            draft, self.dialogue.draft = self.dialogue.draft, ""
            try:
                self.handle(read(draft))
            except KeyboardInterrupt:
                say("(Ctrl-D or /exit leaves.)")
            except EOFError:
                return

    def handle(self, text: str) -> None:
        """Handles one message; raises EOFError for /exit."""
        text = whole_text(text)
        if text.startswith(BLOCK):
            content = text.rstrip().removeprefix(BLOCK).removesuffix(BLOCK).strip("\n").rstrip()
            if content:
                self.dialogue.ask(content)
        elif self.commands.is_command(text):
            self.commands.run(text)
        elif text.strip():
            self.dialogue.ask(text.strip())
