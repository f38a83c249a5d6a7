"""Editing a message on a terminal with prompt_toolkit: history between runs, blocks, pastes, wide characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from qwartet.cli.chat.commands import PROMPT
from qwartet.cli.chat.line_history import LineHistory
from qwartet.cli.chat.session import is_open_block


class Editor:
    """Reads messages with a line editor."""

    def __init__(self, complete: Callable[[str], list[str]], history: Path | None, **streams: Any) -> None:
        """`complete`: completions of the last word of a text; `history`: its file, None to keep none."""
        kept: History = InMemoryHistory() if history is None else LineHistory(history)
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,  # pasted text may have many lines; Enter is bound below
            history=kept,
            completer=_CommandCompleter(complete),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # a menu would reserve lines below the prompt
            key_bindings=_key_bindings(),
            prompt_continuation=" " * len(PROMPT),
            enable_open_in_editor=True,
            tempfile_suffix=".txt",
            enable_suspend=True,
            **streams,
        )

    def read(self, draft: str = "") -> str:
        """A message; EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C on an empty line."""
        return self._session.prompt(default=draft)


class _CommandCompleter(Completer):
    """Commands and settings; file names after /save and /load."""

    def __init__(self, complete: Callable[[str], list[str]]) -> None:
        self._complete = complete
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """See Completer."""
        text = document.text_before_cursor
        command, _, rest = text.partition(" ")
        if rest and command in ("/save", "/save!", "/load"):
            yield from self._paths.get_completions(Document(rest.lstrip()), complete_event)
            return
        last = text.rpartition(" ")[2]
        for word in self._complete(text):
            yield Completion(word, start_position=-len(last))


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()
    in_message = has_focus(DEFAULT_BUFFER)  # not in a search, which has its own bindings for these keys

    @bindings.add("enter", filter=in_message)
    def _(event: KeyPressEvent) -> None:
        if is_open_block(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=in_message)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c", filter=in_message)
    def _(event: KeyPressEvent) -> None:
        if not event.current_buffer.text:
            event.app.exit(exception=KeyboardInterrupt())
        else:  # Ctrl-_ brings it back
            event.current_buffer.save_to_undo_stack()
            event.current_buffer.document = Document()

    return bindings
