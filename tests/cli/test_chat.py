"""`qwartet chat` with one prompt: from arguments, from a pipe, as text and as JSON."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from qwartet import LLM
from qwartet.cli.chat import verb as chat_module
from qwartet.cli.chat.conversant import Turns
from qwartet.cli.terminal import inert
from tests.cli.command_line import CommandLine, Terminal, run_in_process

GREEDY = ("--greedy", "--max-tokens", "12")


@pytest.fixture
def bundled(chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model in the place of the bundled one."""
    monkeypatch.setattr(chat_module, "DEMO", chat_model)
    return chat_model


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def greedy_answer(model: Path, query: str, **options: Any) -> str:
    return LLM(model, device="cpu").chat(query, do_sample=False, max_tokens=12, **options)[0]


def test_the_answer_goes_to_stdout_and_the_line_about_the_model_to_stderr(
    qwartet: CommandLine, chat_model: Path
) -> None:
    outcome = qwartet("chat", chat_model, "hello", *GREEDY, "--device", "cpu")
    assert (outcome.code, outcome.out) == (0, greedy_answer(chat_model, "hello") + "\n")
    assert outcome.err.startswith(f"{chat_model}: 361.9 k parameters, ") and outcome.err.count("\n") == 1
    assert "bfloat16 on cpu" in outcome.err and "quantized linear: " in outcome.err and "loaded in" in outcome.err


def test_quiet_leaves_stderr_empty(qwartet: CommandLine, chat_model: Path) -> None:
    assert qwartet("chat", chat_model, "hello", *GREEDY, "-q").err == ""


def test_json_is_one_object_with_the_same_answer(qwartet: CommandLine, chat_model: Path) -> None:
    outcome = qwartet("chat", chat_model, "hello", *GREEDY, "--json", "--device", "cpu")
    answer = json.loads(outcome.out)
    assert answer.pop("seconds") > 0
    assert answer.pop("prompt_tokens") > len("hello")
    response = greedy_answer(chat_model, "hello")
    assert answer == {"response": response, "finish_reason": "length", "completion_tokens": 12}


def test_a_model_that_cannot_think_says_so_before_it_answers(qwartet: CommandLine, chat_model: Path) -> None:
    outcome = qwartet("chat", chat_model, "hello", *GREEDY, "-q", "--thinking")
    assert (outcome.code, outcome.out) == (2, "") and "error: this model cannot think first; use one" in outcome.err
    assert (
        qwartet("chat", chat_model, "hello", *GREEDY, "-q", "--no-thinking").out
        == greedy_answer(chat_model, "hello") + "\n"
    ), "it does not think anyway"


def test_a_prompt_can_be_piped_in(qwartet: CommandLine, chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = qwartet("chat", chat_model, "hello", *GREEDY).out
    pipe(monkeypatch, "hello\n")
    assert qwartet("chat", chat_model, *GREEDY).out == expected


def test_a_pipe_gives_its_bytes_as_they_are_in_a_process_of_its_own(chat_model: Path) -> None:
    outcome = run_in_process("chat", chat_model, "-q", *GREEDY, "--device", "cpu", stdin=b"hello\n")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == greedy_answer(chat_model, "hello") + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_on_standard_input_says_its_encoding(chat_model: Path, encoding: str) -> None:
    outcome = run_in_process("chat", chat_model, "-q", *GREEDY, stdin="hello 你好\n".encode(encoding))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == greedy_answer(chat_model, "hello 你好") + "\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hi 你好".encode("gbk"), "standard input: line 1, byte 3 (0xc4) is not UTF-8 text; convert it: iconv"),
        ("héllo".encode("latin-1"), "standard input: line 1, byte 1 (0xe9) is not UTF-8 text; convert it: iconv"),
        ("hello".encode("utf-16-le"), "standard input: looks like UTF-16 without a byte order mark; convert it: iconv"),
        (b"\xff\xfeh", "standard input: byte 2 (0x68) is not UTF-16 text; convert it: iconv"),
    ],
)
def test_standard_input_in_another_encoding_is_refused_and_nothing_replaced(
    chat_model: Path, content: bytes, words: str
) -> None:
    run_in_process("chat", chat_model, "-q", *GREEDY, stdin=content).assert_one_line_error(words)


def test_an_answer_survives_an_output_without_unicode(chat_model: Path) -> None:
    outcome = run_in_process("chat", chat_model, "-q", *GREEDY, stdin=b"hello", PYTHONIOENCODING="ascii")
    assert (outcome.code, outcome.err) == (0, "") and outcome.out.isascii()


def test_nothing_on_standard_input_is_one_line(
    qwartet: CommandLine, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, " \n")
    qwartet("chat", chat_model).assert_one_line_error("standard input is empty")


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (["hello"], b"the weather\n", "the weather\n\nhello"),
        (["--prompt", "hello"], "你好\r\n".encode(), "你好\n\nhello"),
        (["hello"], b"\n", "hello"),
        ([], b"the weather\n", "the weather"),
    ],
)
def test_piped_text_goes_before_the_prompt(chat_model: Path, arguments: list[str], stdin: bytes, expected: str) -> None:
    options = (*GREEDY, "--device", "cpu", "-q")
    joined = run_in_process("chat", chat_model, *arguments, *options, stdin=stdin)
    assert joined.out == run_in_process("chat", chat_model, "--prompt", expected, *options).out


def test_a_given_prompt_leaves_a_stream_that_is_no_pipe_alone(
    qwartet: CommandLine, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NeverEnding(io.StringIO):
        def read(self, size: int | None = -1) -> str:
            raise AssertionError("standard input was read")

    monkeypatch.setattr("sys.stdin", NeverEnding())
    assert qwartet("chat", chat_model, "--prompt", "hello", *GREEDY).code == 0


@pytest.mark.parametrize("arguments", [["hello world"], ["你好"], ["-p", "hello"], ["--prompt", "a/b"]])
def test_a_lone_argument_that_can_be_no_model_is_said_to_the_bundled_one(
    qwartet: CommandLine, bundled: Path, arguments: list[str]
) -> None:
    outcome = qwartet("chat", *arguments, *GREEDY)
    assert outcome.code == 0 and outcome.err.startswith("bundled model: ")
    assert outcome.out == qwartet("chat", bundled, "--prompt", arguments[-1], *GREEDY).out


def test_a_lone_word_is_a_model_and_the_error_says_how_to_send_it(bundled: Path) -> None:
    run_in_process("chat", "hello").assert_one_line_error("(to send it to the bundled model: qwartet chat -p hello)")


def test_a_missing_bundled_model_is_one_line(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_module, "DEMO", tmp_path)
    qwartet("chat", "-p", "hello").assert_one_line_error("the bundled model is missing")
    qwartet("chat", "-p", "hello", "--revision", "main").assert_one_line_error("--revision needs a hub id")


def test_json_without_a_prompt_on_a_terminal_is_refused(chat_model: Path) -> None:
    with Terminal("chat", chat_model, "--json") as terminal:
        terminal.expect("error: --json needs a prompt; ")
        assert terminal.wait() == 2


def test_a_seed_repeats_an_answer_and_another_gives_another(qwartet: CommandLine, chat_model: Path) -> None:
    def answer(seed: int) -> str:
        return qwartet("chat", chat_model, "hello", "--temperature", 1, "--max-tokens", 12, "--seed", seed).out

    assert answer(1) == answer(1) != answer(2)


def test_the_system_prompt_reaches_the_model(qwartet: CommandLine, chat_model: Path) -> None:
    def prompt_tokens(*options: str) -> int:
        return json.loads(qwartet("chat", chat_model, "hello", *GREEDY, *options, "--json").out)["prompt_tokens"]

    assert prompt_tokens("--system", "") < prompt_tokens() < prompt_tokens("--system", "the weather " * 20)


def test_all_sampling_options_reach_the_request(
    qwartet: CommandLine, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    answer = LLM.chat_deltas

    def record(self: LLM, query: str, history: Turns, system: str | None, **sampling: Any) -> Any:
        seen.update(sampling, system=system, length=self.engine.max_model_len, dtype=str(self.model.dtype))
        return answer(self, query, history, system, **sampling)

    monkeypatch.setattr(LLM, "chat_deltas", record)
    options = "--temperature 0.5 --top-p 0.9 --top-k 7 --repetition-penalty 1.2 --max-tokens 9 --seed 3 --system be"
    engine = "--max-model-len 1K --dtype fp32 --load-mode pread --force"
    assert qwartet("chat", chat_model, "hello", *options.split(), *engine.split()).code == 0
    assert seen == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.2, "max_tokens": 9, "seed": 3,
        "system": "be", "length": 1024, "dtype": "torch.float32", "enable_thinking": None,
    }  # fmt: skip


def test_on_a_terminal_an_answer_is_inert(qwartet: CommandLine, chat_model: Path) -> None:
    options = ("--greedy", "--max-tokens", 30, "-q", "--device", "cpu")
    raw = qwartet("chat", chat_model, "hello", *options).out.strip("\n")
    assert inert(raw) != raw, "choose a prompt whose answer has control characters"
    with Terminal("chat", chat_model, "hello", *options) as terminal:
        terminal.expect(re.escape(inert(raw).replace("\n", "\r\n")) + "\r\n")
        assert terminal.wait() == 0
