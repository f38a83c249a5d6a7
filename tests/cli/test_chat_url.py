"""`qwartet chat --url`: the same conversation and the same single answers, from a server."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from typing import Any

import pytest

from qwartet.cli.chat.conversant import RemoteModel
from qwartet.client.openai_server import OpenAIServer, ServedModel
from qwartet.errors import PromptTooLongError
from qwartet.tokenizer.answer_delta import AnswerDelta
from tests.cli.command_line import CommandLine, Terminal, environment, run_in_process
from tests.client.scripted_server import ScriptedServer, Waits, answer, event, head, sends, whole


def test_an_answer_goes_to_stdout_and_the_line_about_the_server_to_stderr(
    qwartet: CommandLine, scripted: ScriptedServer
) -> None:
    scripted.chat = [answer(" 你好", "！\n")]
    outcome = qwartet("chat", "--url", scripted.url, "hello")
    assert (outcome.code, outcome.out) == (0, "你好！\n")
    assert outcome.err == f"{scripted.url}: qwen, context of 2,048 tokens\n"


def test_settings_travel_under_openai_s_names_and_only_those_that_are_given(
    qwartet: CommandLine, scripted: ScriptedServer
) -> None:
    options = "--temperature 0.5 --top-p 0.9 --top-k 7 --repetition-penalty 1.2 --max-tokens 9 --seed 3 --system be"
    qwartet("chat", "--url", scripted.url, "hello", *options.split())
    qwartet("chat", "--url", scripted.url, "hello", "--greedy")
    first, second = scripted.chat_bodies
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]
    sent = {"model": "qwen", "stream": True, "stream_options": {"include_usage": True}}
    assert first == sent | {
        "messages": messages, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.2,
        "max_tokens": 9, "seed": 3,
    }  # fmt: skip
    assert second == sent | {"messages": messages[1:], "temperature": 0.0}


def test_json_is_the_same_object_as_of_a_model_here(qwartet: CommandLine, scripted: ScriptedServer) -> None:
    scripted.chat = [answer("a", "b", finish_reason="length")]
    found = json.loads(qwartet("chat", "--url", scripted.url, "hello", "--json").out)
    assert found.pop("seconds") >= 0
    assert found == {"response": "ab", "finish_reason": "length", "prompt_tokens": 20, "completion_tokens": 2}


def test_a_prompt_can_be_piped_to_a_server(scripted: ScriptedServer) -> None:
    outcome = run_in_process("chat", "--url", scripted.url, "-q", stdin="你好\n".encode())
    assert (outcome.code, outcome.out, outcome.err) == (0, "HELLO\n", "")
    assert scripted.chat_bodies[0]["messages"] == [{"role": "user", "content": "你好"}]


def test_no_torch_is_loaded_for_a_server_s_answer(scripted: ScriptedServer) -> None:
    report = "print([name for name in ('torch', 'tiktoken', 'huggingface_hub', 'rich') if name in sys.modules])"
    code = f"import sys; from qwartet.cli.main import run; run(['chat', '--url', {scripted.url!r}, 'hello']); {report}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    shown, loaded = result.stdout.splitlines()
    assert shown == "HELLO" and ast.literal_eval(loaded) == []


@pytest.mark.parametrize("key", ["option", "environment"])
def test_the_key_goes_with_every_request(
    qwartet: CommandLine, scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    if key == "environment":
        monkeypatch.setenv("QWARTET_API_KEY", "k3y")
    options = ["--api-key", "k3y"] if key == "option" else []
    outcome = qwartet("chat", "--url", scripted.url, "hello", *options)
    assert [asked.headers["authorization"] for asked in scripted.asked] == ["Bearer k3y"] * 2
    assert "k3y" not in outcome.out + outcome.err


def test_a_key_in_clear_text_to_another_machine_is_warned_of(qwartet: CommandLine) -> None:
    outcome = qwartet("chat", "--url", "http://no-such-host.invalid", "--api-key", "k3y", "hello")
    assert outcome.err.startswith("warning: the API key is sent to no-such-host.invalid unencrypted; ")


MANY = {"data": [{"id": "a"}, {"id": "b", "max_model_len": 7}]}


@pytest.mark.parametrize(
    ("options", "name", "told"),
    [
        ([], "a", "a, the first of 2 models"),
        (["--model", "b"], "b", "b, context of 7 tokens"),
        (["--model", "unlisted"], "unlisted", "unlisted"),
    ],
)
def test_the_model_is_the_one_named_or_the_first(
    qwartet: CommandLine, scripted: ScriptedServer, options: list[str], name: str, told: str
) -> None:
    scripted.models = [whole(json.dumps(MANY))]
    outcome = qwartet("chat", "--url", scripted.url, "hello", *options)
    assert scripted.chat_bodies[0]["model"] == name
    assert outcome.err == f"{scripted.url}: {told}\n"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--dtype", "bf16"], "--dtype applies to local models; remove it or --url"),
        (["--threads", "2"], "--threads applies to local models"),
        (["--no-weight-cache"], "--weight-cache applies to local models"),
        (["a", "b"], "unexpected argument 'a' with --url; name a server's model with --model"),
        (["--timeout", "0"], "timeout is 0 s; "),
        (["--api-key", "a b"], "the API key is empty or has characters"),
        (["--top-p", "2"], "top_p is 2.0; "),
    ],
)
def test_what_cannot_be_done_with_a_server_is_refused_before_it_is_asked(
    qwartet: CommandLine, scripted: ScriptedServer, arguments: list[str], fragment: str
) -> None:
    qwartet("chat", "--url", scripted.url, "-p", "hello", *arguments).assert_one_line_error(fragment)
    assert scripted.asked == []


@pytest.mark.parametrize("option", [["--model", "x"], ["--api-key", "x"], ["--timeout", "3"]])
def test_what_is_about_a_server_is_refused_without_one(qwartet: CommandLine, option: list[str]) -> None:
    qwartet("chat", *option, "-p", "hello").assert_one_line_error(f"{option[0]} applies to servers; set --url too")


def test_a_server_that_refuses_is_one_line(qwartet: CommandLine, scripted: ScriptedServer) -> None:
    scripted.models = [whole("", 401)]
    qwartet("chat", "--url", scripted.url, "hello").assert_one_line_error("the API key is missing or was rejected")


def test_an_answer_that_breaks_is_shown_as_far_as_it_came(qwartet: CommandLine, scripted: ScriptedServer) -> None:
    scripted.chat = [sends(head(), event("HEL"))]
    outcome = qwartet("chat", "--url", scripted.url, "hello", "-q")
    assert (outcome.code, outcome.out) == (2, "HEL\n")
    assert "the answer was cut off; try again" in outcome.err


EDITOR = r"\x1b\[\?2004h"  # bracketed paste is turned on: the line editor waits for keys


def talk(scripted: ScriptedServer, **environment: str) -> Terminal:
    return Terminal("chat", "--url", scripted.url, **environment)


def messages(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"]]


def test_a_turn_that_breaks_or_is_refused_is_not_kept(scripted: ScriptedServer) -> None:
    refusal = {"error": {"message": "top_k is not known here", "param": "top_k"}}
    scripted.chat = [
        answer("ONE"), sends(head(), event("TW")), whole(json.dumps(refusal), 400), answer("FOUR"),
    ]  # fmt: skip
    with talk(scripted) as terminal:
        terminal.expect(r"Ctrl-D leaves\.\r\n> ")
        terminal.send("one\n")
        terminal.expect(r"ONE\r\n> ")
        terminal.send("two\n")
        terminal.expect(r"TW\r\nerror: http[^\r\n]+ the answer was cut off; try again[^\r\n]+\r\n> ")
        terminal.send("/set top_k 3\n")
        terminal.expect(r"top_k: 3\r\n> ")
        terminal.send("three\n")
        terminal.expect(r"rejected the request \(top_k is not known here\); leave out top_k, or change the value\r\n> ")
        terminal.send("/retry\n")
        terminal.expect(r"FOUR\r\n> ")
        terminal.send("/stats\n")
        terminal.expect(r"context: 21 tokens of 2,048 \(1%\)\r\n> ")
        terminal.send("/exit\n")
        assert terminal.wait() == 0
    assert messages(scripted.chat_bodies[-1]) == ["one", "ONE", "three"]
    assert scripted.chat_bodies[-1]["top_k"] == 3


def test_the_oldest_turns_are_forgotten_until_the_rest_fits(scripted: ScriptedServer) -> None:
    too_long = whole('{"error": {"message": "the prompt has 9 tokens, the context 8"}}', 400)
    scripted.chat = [too_long, too_long, answer("YES")]
    history = [(f"q{number}", f"a{number}") for number in range(1, 5)]
    stream = RemoteModel(OpenAIServer(scripted.url), ServedModel("qwen")).chat_stream("now", history, "be")
    assert list(stream) == [AnswerDelta("YES")]
    assert [messages(body)[1::2] for body in scripted.chat_bodies] == [
        ["q1", "q2", "q3", "q4", "now"], ["q3", "q4", "now"], ["q4", "now"],
    ]  # fmt: skip
    scripted.chat = [too_long]
    with pytest.raises(PromptTooLongError):
        list(RemoteModel(OpenAIServer(scripted.url), ServedModel("qwen")).chat_stream("now", history, "be"))
    assert messages(scripted.chat_bodies[-1]) == ["be", "now"]


def test_thinking_is_no_part_of_the_output_and_can_be_switched(qwartet: CommandLine, scripted: ScriptedServer) -> None:
    scripted.chat = [answer("yes", thoughts=["hm", " ok"])]
    assert qwartet("chat", "--url", scripted.url, "hello").out == "yes\n"
    found = json.loads(qwartet("chat", "--url", scripted.url, "hello", "--json", "--no-thinking").out)
    assert (found["response"], found["reasoning"]) == ("yes", "hm ok")
    qwartet("chat", "--url", scripted.url, "hello", "--thinking")
    sent = [body.get("chat_template_kwargs") for body in scripted.chat_bodies]
    assert sent == [None, {"enable_thinking": False}, {"enable_thinking": True}]


def test_ctrl_c_closes_the_connection_and_the_conversation_goes_on(scripted: ScriptedServer) -> None:
    waits = Waits("HEL")
    scripted.chat = [waits, answer("TWO")]
    with talk(scripted) as terminal:
        terminal.expect("> ")
        terminal.send("hello\n")
        terminal.expect("HEL")
        terminal.interrupt(r"\(Stopped\. This turn is not kept\.\)\r\n> ")
        assert waits.was_left.wait(20)
        terminal.send("two\n")
        terminal.expect(r"TWO\r\n> ")
        terminal.send("\x04")
        assert terminal.wait() == 0
    assert messages(scripted.chat_bodies[1]) == ["two"]


def test_a_conversation_with_the_line_editor(scripted: ScriptedServer, tmp_path: Any) -> None:
    terminals = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(tmp_path)}
    scripted.chat = [answer("你好！"), answer("MANY\x1b[31m"), answer("AGAIN")]
    with talk(scripted, **terminals) as terminal:
        terminal.expect(EDITOR)
        terminal.send("你好\r")
        terminal.expect("你好！\r\n")
        terminal.expect(EDITOR)
        terminal.send("\x1b[200~one\ntwo\x1b[201~\r")
        terminal.expect("MANY␛\\[31m\r\n")
        terminal.expect(EDITOR)
        terminal.send("\x04")
        assert terminal.wait() == 0
    assert (tmp_path / "qwartet" / "chat_history").stat().st_mode & 0o777 == 0o600
    with talk(scripted, **terminals) as terminal:
        terminal.expect(EDITOR)
        terminal.send("\x1b[A\x1b[A\x1b[A\r")  # through the two lines of the last message to the one before
        terminal.expect("AGAIN\r\n")
        terminal.expect(EDITOR)
        terminal.send("\x04")
        assert terminal.wait() == 0
    assert messages(scripted.chat_bodies[1])[2:] == ["one\ntwo"]
    assert messages(scripted.chat_bodies[2]) == ["你好"]


@pytest.mark.parametrize("way", ["option", "environment"])
def test_lines_are_not_kept_where_that_is_not_wanted(scripted: ScriptedServer, tmp_path: Any, way: str) -> None:
    wish = {"QWARTET_HISTORY": "0"} if way == "environment" else {}
    options = ["--no-history"] if way == "option" else []
    terminals = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(tmp_path), **wish}
    with Terminal("chat", "--url", scripted.url, *options, **terminals) as terminal:
        terminal.expect(EDITOR)
        terminal.send("hello\r")
        terminal.expect("HELLO\r\n")
        terminal.expect(EDITOR)
        terminal.send("\x04")
        assert terminal.wait() == 0
    assert list(tmp_path.iterdir()) == []
