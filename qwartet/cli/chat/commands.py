"""The commands of a conversation: lines that begin with a slash."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwartet.cli import failures
from qwartet.cli.chat.conversation import Conversation, load_conversation, save_conversation
from qwartet.cli.chat.dialogue import Dialogue, complain, say
from qwartet.cli.chat.sampling_settings import SETTINGS, setting_name, setting_value, shown
from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.terminal import one_line, printable
from qwartet.errors import RequestError, SettingError

PROMPT = "> "
DEFAULT = "default"
_THINKING = {"on": True, "off": False, DEFAULT: None}
_ALIASES = {"quit": "exit", "bye": "exit", "?": "help"}
_AS_IT_IS = "to send the line as a message, start it with a space"
_KEYS = (
    "Commands can be abbreviated (/ret is /retry); Tab completes them.",
    'For a message of several lines, paste it, use """, or press Alt+Enter.',
    "Ctrl-C clears the line or stops the answer; a stopped answer is not kept.",
)


@dataclass(frozen=True)
class Command:
    """One command: how it is written, what it does."""

    usage: str
    what: str
    run: Callable[[str], None]

    @property
    def name(self) -> str:
        """The name with its slash."""
        return self.usage.split()[0]

    @property
    def argument(self) -> Literal["none", "optional", "needed"]:
        """Whether something follows the name."""
        if " " not in self.usage:
            return "none"
        return "optional" if "[" in self.usage else "needed"


class Commands:
    """What users can do besides asking. An invalid command prints one line on stderr and changes nothing."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._all = {
            "help": Command("/help", "show this help", self._help),
            "system": Command(
                "/system [TEXT]", "show or set the system prompt; /system default resets it", self._system
            ),
            "clear": Command("/clear", "clear the conversation", self._clear),
            "history": Command("/history", "show the conversation", self._history),
            "undo": Command("/undo", "remove the last turn and edit its question", lambda _: self._undo()),
            "retry": Command("/retry", "answer the last question again", lambda _: self._dialogue.retry()),
            "set": Command("/set [NAME VALUE]", "show or set sampling settings; VALUE default resets", self._set),
            "seed": Command("/seed [N]", "show or set the random seed of answers", self._seed),
            "thinking": Command(
                "/thinking [MODE]", "show or set thinking before answers: on, off or default", self._thinking
            ),
            "stats": Command("/stats", "show tokens and speed of the last answer, and context used", self._stats),
            "save": Command("/save FILE", "save the conversation as JSON; /save! FILE overwrites", self._save),
            "load": Command("/load FILE", "continue a saved conversation", self._load),
            "exit": Command("/exit", "leave (also /quit, /bye, Ctrl-D)", self._exit),
        }

    def run(self, line: str) -> None:
        """Runs a command; /exit raises EOFError."""
        name, argument = _parts(line)
        try:
            command = self._all[self._full_name(name)]
            if command.argument == "none" and argument:
                raise SettingError(f"{command.usage} takes no argument; {_AS_IT_IS}")
            if command.argument == "needed" and not argument:
                raise SettingError(f"/{name} needs a file; write {command.usage}")
            if name == "save!":
                self._save(argument, overwrite=True)
            else:
                command.run(argument)
        except (SettingError, RequestError, OSError) as error:
            complain(failures.message(error) or str(error))

    def is_command(self, text: str) -> bool:
        """Whether a message is a command; one of several lines is only if its first word is exactly a command."""
        if not text.startswith("/"):
            return False
        return "\n" not in text or _parts(text)[0] in {*self._all, *_ALIASES, "save!"}

    def completions(self, text: str) -> list[str]:
        """Completions of the last word of an unfinished command."""
        words = text.split(" ")
        if not text.startswith("/") or "\n" in text:
            return []
        if len(words) == 1:
            found = [command for name, command in sorted(self._all.items()) if name.startswith(text[1:])]
            return [command.name + ("" if command.argument == "none" else " ") for command in found]
        if words[0] == "/set" and len(words) == 2:
            return [f"{name} " for name in SETTINGS if name.startswith(words[1])]
        if words[0] == "/thinking" and len(words) == 2:
            return [value for value in _THINKING if words[-1] and value.startswith(words[-1])]
        if (words[0], len(words)) in (("/set", 3), ("/system", 2), ("/seed", 2)):
            return [DEFAULT] if words[-1] and DEFAULT.startswith(words[-1]) else []
        return []

    def _full_name(self, name: str) -> str:
        """The command for a name, an alias or an unambiguous prefix; SettingError with a suggestion."""
        if name == "save!":
            return "save"
        if name in self._all or name in _ALIASES:
            return _ALIASES.get(name, name)
        longer = [known for known in self._all if name and known.startswith(name)]
        if len(longer) == 1:
            return longer[0]
        near = longer or difflib.get_close_matches(name, self._all, n=1)
        hint = f"did you mean {' or '.join(f'/{known}' for known in near)}?" if near else "/help lists the commands"
        raise SettingError(f"unknown command /{name:.80}; {hint} ({_AS_IT_IS})")

    def _help(self, _: str) -> None:
        width = max(len(command.usage) for command in self._all.values()) + 2
        for command in self._all.values():
            print(f"{command.usage:<{width}}{translate(command.what)}")
        for line in _KEYS:
            print(translate(line))

    def _system(self, text: str) -> None:
        conversation = self._dialogue.conversation
        if text:
            conversation.system = None if text == DEFAULT else text
        given = conversation.system
        shown_system = label("(default)") if given is None else printable(given or label("(none)"), sys.stdout)
        print(f"{label('system prompt')}{label(': ')}{shown_system}")

    def _clear(self, _: str) -> None:
        self._dialogue.conversation.turns.clear()
        self._dialogue.forget_last()
        print(translate("Conversation cleared."))

    def _history(self, _: str) -> None:
        turns = self._dialogue.conversation.turns
        if not turns:
            print(translate("(nothing yet)"))
        for query, answer in turns:
            print(printable(f"{PROMPT}{query}\n{answer}", sys.stdout))

    def _undo(self) -> None:
        self._dialogue.undo()
        if self._dialogue.draft:
            num_turns = len(self._dialogue.conversation.turns)
            say(f"(Turn removed; {num_turns} {'turn' if num_turns == 1 else 'turns'} left.)")

    def _set(self, text: str) -> None:
        given = self._dialogue.conversation.sampling
        name, _, value = text.partition(" ")
        if not text:
            for known in SETTINGS:
                print(self._setting_line(known))
            return
        name = setting_name(name)
        value = value.strip()
        if value == DEFAULT:
            given.pop(name, None)
        elif value:
            given[name] = setting_value(name, value)
        print(self._setting_line(name))

    def _setting_line(self, name: str) -> str:
        given, defaults = self._dialogue.conversation.sampling, self._dialogue.conversant.sampling_defaults
        if name in given:
            value = shown(given[name])
        elif name == "seed":
            value = translate("a new one for each answer (default)")
        elif name in defaults:
            value = translate(f"{shown(defaults[name]) or label('none')} (default)")
        else:
            value = translate("(the server's default)")
        return f"{name}{label(': ')}{printable(value, sys.stdout)}"

    def _seed(self, text: str) -> None:
        self._set(f"seed {text}")

    def _thinking(self, text: str) -> None:
        conversant = self._dialogue.conversant
        if text:
            if text not in _THINKING:
                raise SettingError(f"/thinking takes {', '.join(_THINKING)}, not {text!r:.80}; {_AS_IT_IS}")
            conversant.set_thinking(_THINKING[text])
        words = {value: word for word, value in _THINKING.items()} | {None: "(default)"}
        print(f"{label('thinking')}{label(': ')}{label(words[conversant.enable_thinking])}")

    def _stats(self, _: str) -> None:
        answer = self._dialogue.last_answer
        if answer is None:
            print(translate("(no answer yet)"))
            return
        end, speed = answer.end, answer.tokens_per_s
        counts = "tokens not counted"
        used = None
        if end.num_prompt_tokens is not None and end.num_completion_tokens is not None:
            used = end.num_prompt_tokens + end.num_completion_tokens
            counts = f"{end.num_completion_tokens:,} tokens for a prompt of {end.num_prompt_tokens:,}"
        rate = "" if speed is None else f", then {speed:.1f} tokens/s"
        times = f"{answer.seconds:.2f} s, the first text after {answer.first_s:.2f} s{rate}"
        print(translate(f"last answer: {counts}; {times}"))
        length = self._dialogue.conversant.context_length
        if used is not None:
            share = "" if length is None else f" of {length:,} ({used / length:.0%})"
            print(translate(f"context: {used:,} tokens{share}"))

    def _save(self, text: str, *, overwrite: bool = False) -> None:
        path = Path(os.path.expanduser(text))
        save_conversation(self._dialogue.conversation, path, overwrite=overwrite)
        print(one_line(f"saved: {path}"))

    def _load(self, text: str) -> None:
        loaded: Conversation = load_conversation(Path(os.path.expanduser(text)))
        self._dialogue.replace(loaded)
        num_turns = len(loaded.turns)
        parts = [translate(f"{num_turns} {'turn' if num_turns == 1 else 'turns'}")]
        parts += [] if loaded.system is None else [translate("a system prompt")]
        parts += [f"{name} {shown(value)}" for name, value in loaded.sampling.items()]
        print(printable(f"{label('loaded')}{label(': ')}{label(', ').join(parts)}", sys.stdout))

    def _exit(self, _: str) -> None:
        raise EOFError


def _parts(line: str) -> tuple[str, str]:
    """The name and the argument of a command."""
    words = line[1:].split(maxsplit=1)
    name = words[0] if words and not line[1:2].isspace() else ""
    return name, words[1].strip() if len(words) > 1 else ""
