"""`qwartet chat --url` against `qwartet serve`: the same answers as with the model here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwartet import LLM
from tests.cli.command_line import CommandLine, Terminal
from tests.server.running_server import MODEL, RunningServer, wait_for


@pytest.fixture(scope="module")
def served(chat_model: Path) -> Iterator[RunningServer]:
    with RunningServer(LLM(chat_model, device="cpu"), has_page=False) as server:
        yield server


GREEDY = ("--greedy", "--max-tokens", 12, "-q")


def test_a_served_model_answers_as_it_does_here(qwartet: CommandLine, chat_model: Path, served: RunningServer) -> None:
    here = qwartet("chat", chat_model, "hello", *GREEDY, "--device", "cpu", "--system", "Be brief.", "--json")
    there = qwartet("chat", "--url", served.url, "hello", *GREEDY, "--system", "Be brief.", "--json")
    assert here.code == there.code == 0
    assert here.out.partition(', "seconds"')[0] == there.out.partition(', "seconds"')[0]


def test_the_server_tells_its_model_and_its_context(qwartet: CommandLine, served: RunningServer) -> None:
    length = f"{served.llm.engine.max_model_len:,}"
    outcome = qwartet("chat", "--url", served.url, "hello", *GREEDY[:-1])
    assert outcome.err == f"{served.url}: {MODEL}, context of {length} tokens\n"


def test_every_setting_is_one_that_the_server_honours(qwartet: CommandLine, served: RunningServer) -> None:
    with Terminal("chat", "--url", served.url) as terminal:
        settings = {
            "temperature": "0.5", "top_p": "0.9", "top_k": "3", "min_p": "0.1", "repetition_penalty": "1.1",
            "presence_penalty": "0.1", "frequency_penalty": "0.1", "max_tokens": "3", "seed": "7", "stop": "zzz",
        }  # fmt: skip
        for name, value in settings.items():
            terminal.expect("> ")
            terminal.send(f"/set {name} {value}\n")
            terminal.expect(rf"{name}: ")
        terminal.send("hello\n")
        assert "error" not in terminal.expect(r"Cut at max_tokens[^\r\n]+\r\n> ")


def test_ctrl_c_ends_the_request_on_the_server(served: RunningServer) -> None:
    with Terminal("chat", "--url", served.url, "--greedy", "--max-tokens", 1900) as terminal:
        terminal.expect(r"Ctrl-D leaves\.\r\n> ")
        terminal.send("hello\n")
        terminal.expect(r"hello\r\n[^\r\n]+")
        terminal.interrupt(r"\(Stopped\. This turn is not kept\.\)\r\n> ")
        wait_for(served.is_idle)


def test_a_refusal_of_the_server_names_the_field(qwartet: CommandLine, served: RunningServer) -> None:
    outcome = qwartet("chat", "--url", served.url, "-q", "hello", "--model", "another")
    outcome.assert_one_line_error("the model 'another' is not served here", "check the model name")
    outcome = qwartet("chat", "--url", served.url, "-q", "hello " * 5000)
    outcome.assert_one_line_error(
        "the conversation is too long (This model's maximum context length is 2048 tokens",
        "; shorten it or lower max_tokens",
    )
