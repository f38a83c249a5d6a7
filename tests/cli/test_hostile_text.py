"""Names, keys and words of others, by whichever way they come to a terminal: inert, and of bounded length."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.command_line import CommandLine, Terminal, environment
from tests.cli.test_terminal import CONTROLS
from tests.client.scripted_server import ScriptedServer, answer
from tests.tiny_checkpoint import write_tiny_checkpoint

EVIL = "evil\x1b[31m\x9b31m\x9d0;title\x9c\x07\u202egpj\u2066\u2028\u2029\x85\x7f\rproblem: none"
LONG = "k" * 10_000_000
HARMLESS = {"\n", "\r", "\t"}  # a terminal ends lines with both


def check_shown(text: str, longest: int = 1200) -> None:
    assert not (set(text) & set(CONTROLS)) - HARMLESS, text[:2000].encode()
    assert text.count("\r") == text.count("\r\n"), "and with nothing else"
    assert max(map(len, text.splitlines()), default=0) <= longest


def on_terminal(*arguments: object) -> str:
    """All that a run shows, both streams being a terminal; that the run's own bars and editor may steer."""
    with Terminal(*arguments, TERM="dumb") as terminal:
        shown = terminal.rest()
        terminal.wait()
    return shown


def with_config(directory: Path, **changes: object) -> Path:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


def evil_config(tmp_path: Path) -> Path:
    return with_config(write_tiny_checkpoint(tmp_path / "m"), model_type=EVIL)


def evil_value(tmp_path: Path) -> Path:
    return with_config(write_tiny_checkpoint(tmp_path / "m"), hidden_size=EVIL, torch_dtype=EVIL)


def evil_directory(tmp_path: Path) -> Path:
    return with_config(write_tiny_checkpoint(tmp_path / EVIL.replace("/", "")), num_hidden_layers=-1)


def evil_tensor(tmp_path: Path) -> Path:
    directory = write_tiny_checkpoint(tmp_path / "m")
    file = next(directory.glob("*.safetensors"))
    save_file(load_file(file) | {EVIL: torch.zeros(1), EVIL + "k" * 1_000_000: torch.zeros(1)}, file)
    return directory


def evil_index(tmp_path: Path) -> Path:
    directory = write_tiny_checkpoint(tmp_path / "m")
    weight_map = {EVIL: f"{EVIL}.safetensors", LONG: "model.safetensors", "x": LONG}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def evil_file_name(tmp_path: Path) -> Path:
    directory = write_tiny_checkpoint(tmp_path / "m")
    (directory / f"{EVIL}.safetensors").write_bytes(b"nothing")
    (directory / f"LICENSE{EVIL}").touch()
    (directory / f"{EVIL}.tiktoken").write_bytes(b"\x9b\x1b \x9b\n")
    return directory


def long_value(tmp_path: Path) -> Path:
    return with_config(write_tiny_checkpoint(tmp_path / "m"), model_type=LONG, **{LONG: LONG})


def evil_generation(tmp_path: Path) -> Path:
    directory = write_tiny_checkpoint(tmp_path / "m")
    (directory / "generation_config.json").write_text(json.dumps({"chat_format": EVIL + LONG, EVIL: 1, "top_p": EVIL}))
    return directory


CHECKPOINTS = [
    evil_config, evil_value, evil_directory, evil_tensor, evil_index, evil_file_name, long_value, evil_generation,
]  # fmt: skip


@pytest.mark.parametrize("make", CHECKPOINTS)
@pytest.mark.parametrize("verb", [("inspect", "--tensors"), ("show",), ("verify",), ("plan",), ("chat", "-p", "hi")])
def test_a_hostile_checkpoint_cannot_steer_what_a_verb_shows(
    qwartet: CommandLine, tmp_path: Path, make: object, verb: tuple[str, ...]
) -> None:
    assert callable(make)
    outcome = qwartet(verb[0], make(tmp_path), *verb[1:], *(("--max-tokens", "1") if verb[0] == "chat" else ()))
    assert outcome.out or outcome.err
    check_shown(outcome.err)
    if verb[0] != "chat":  # which writes an answer for a pipe as it is
        check_shown(outcome.out, 8200)


@pytest.mark.parametrize("make", [evil_config, evil_directory, evil_tensor])
def test_a_traceback_on_a_terminal_is_inert_too(tmp_path: Path, make: object) -> None:
    assert callable(make)
    shown = on_terminal("inspect", make(tmp_path), "--debug")
    assert shown
    check_shown(shown, 8200)


@pytest.mark.parametrize("word", [EVIL, "k" * 100_000, f"Org/{EVIL}", "\udc9b"])
@pytest.mark.parametrize(
    "verb",
    [("pull",), ("show",), ("verify",), ("inspect",), ("rm", "-y"), ("chat", "--temperature"), ("--",), ("plan",)],
)
def test_a_hostile_argument_is_one_short_line(qwartet: CommandLine, verb: tuple[str, ...], word: str) -> None:
    outcome = qwartet(*verb, word)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    check_shown(outcome.err)


def test_an_answer_on_a_terminal_keeps_newlines_and_tabs_alone(scripted: ScriptedServer) -> None:
    scripted.chat = [answer("one\n\ttwo ", *EVIL, " done")]
    shown = on_terminal("chat", "--url", scripted.url, "hello")
    check_shown(shown)
    assert "one\r\n" in shown and "two evil␛[31m\ufffd31m" in shown and "\ufffdgpj\ufffd" in shown


def test_a_server_s_words_are_inert(scripted: ScriptedServer) -> None:
    scripted.chat = [answer("x")]
    check_shown(on_terminal("chat", "--url", scripted.url, "--model", EVIL + "k" * 10_000, "hello"), 8200)


def test_what_libraries_write_to_a_terminal_is_inert(tmp_path: Path) -> None:
    """Warnings, logs and tracebacks that are not ours."""
    code = (
        "import logging, sys, warnings, threading\n"
        "from qwartet.cli import main\n"
        f"evil = {EVIL!r}\n"
        "def doctor(**_):\n"
        "    warnings.warn(evil); logging.warning(evil); logging.getLogger('other').error(evil)\n"
        "    thread = threading.Thread(target=lambda: int(evil)); thread.start(); thread.join()\n"
        "    sys.stdout.writelines([evil, '\\n']); print(evil); print(evil, file=sys.stderr)\n"
        "    raise RuntimeError(evil)\n"
        "main.command_tree().commands['doctor'].callback = doctor\n"
        "sys.exit(main.run(['doctor', '--debug']))\n"
    )
    (tmp_path / "run.py").write_text(code)
    pid, master = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, str(tmp_path / "run.py")], environment())
    shown = _read_all(master)
    check_shown(shown)
    assert shown.count("evil␛[31m") >= 7


def _read_all(master: int) -> str:
    shown = b""
    with suppress(OSError):  # the process has ended
        while data := os.read(master, 2**16):
            shown += data
    os.close(master)
    os.wait()
    return shown.decode(errors="replace")


def test_an_uncaught_error_of_the_library_is_inert_and_short(tmp_path: Path) -> None:
    """Python shows it then, not the command line."""
    for make in (evil_config, long_value):
        directory = make(tmp_path / make.__name__)
        code = f"import qwartet; qwartet.LLM({str(directory)!r})"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
        assert result.returncode == 1
        check_shown(result.stderr.splitlines()[-1])
