"""`qwartet run-batch`: a file in, a file out, and a run that was stopped goes on where it was."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from qwartet import LLM
from tests.cli.command_line import CommandLine, Terminal, environment, run_in_process
from tests.forked import Piped, run_forked

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ON_CPU = ("--device", "cpu")


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "hello"}]} if url == CHAT else {"prompt": "hello"}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {**prompt, "temperature": 0, "max_tokens": 8, **body},
    }


def write(path: Path, lines: Iterable[dict[str, Any] | str]) -> Path:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """The entries of OUT by their custom_id, of which each has one."""
    entries = [json.loads(raw) for raw in path.read_text(encoding="utf-8").splitlines()]
    found = {entry["custom_id"]: entry for entry in entries}
    assert len(found) == len(entries)
    return found


def body(entry: dict[str, Any]) -> dict[str, Any]:
    return entry["response"]["body"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_both_endpoints_are_answered_and_the_last_line_sums_up(
    qwartet: CommandLine, source: Path, target: Path
) -> None:
    write(source, [line("a"), "", line("b", COMPLETION), line("c", n=2, seed=1, model="qwartet-demo")])
    outcome = qwartet("run-batch", source, target, *ON_CPU)
    assert outcome.code == 0
    pattern = r"3 done, 0 failed; \d+ prompt and 32 completion tokens in \d+\.\d s, \d+\.\d tok/s\n"
    assert re.fullmatch(pattern, outcome.out)
    progress = outcome.err.splitlines()
    assert progress[0].startswith("bundled model: loaded in ") and progress[-1].startswith("3 of 3 answered, ")
    entries, llm = read(target), LLM(device="cpu")
    assert list(entries["a"]) == ["id", "custom_id", "response", "error"]
    assert entries["a"]["response"]["status_code"] == 200 and entries["a"]["error"] is None
    text = body(entries["a"])["choices"][0]["message"]["content"]
    assert text == llm.chat("hello", temperature=0, max_tokens=8)[0]
    expected = llm.generate("hello", llm.sampling_params(temperature=0, max_tokens=8))[0]
    assert body(entries["b"])["choices"][0]["text"] == expected.text
    assert [choice["index"] for choice in body(entries["c"])["choices"]] == [0, 1]
    assert body(entries["c"])["model"] == "qwartet-demo"


def test_lines_of_the_responses_api_are_answered_and_counted(qwartet: CommandLine, source: Path, target: Path) -> None:
    asked = {"input": "hello", "temperature": 0, "max_output_tokens": 8}
    write(source, [line("a") | {"url": "/v1/responses", "body": asked}])
    report = json.loads(qwartet("run-batch", source, target, *ON_CPU, "--json", "-q").out)
    answer = body(read(target)["a"])
    assert answer["output"][0]["content"][0]["text"] and answer["store"] is False
    assert report["completion_tokens"] == answer["usage"]["output_tokens"] == 8
    assert report["prompt_tokens"] == answer["usage"]["input_tokens"]


def test_json_is_one_object(qwartet: CommandLine, source: Path, target: Path) -> None:
    write(source, [line("a"), line("b", model="gpt-4o")])
    outcome = qwartet("run-batch", source, target, *ON_CPU, "--json", "-q")
    report = json.loads(outcome.out)
    assert outcome.out.count("\n") == 1
    assert report.pop("seconds") > 0 and report.pop("tokens_per_s") > 0 and report.pop("prompt_tokens") > 0
    failure = "line 2: the model 'gpt-4o' is not served here; available: qwartet-demo"
    assert report == {"done": 1, "failed": 1, "skipped": 0, "completion_tokens": 8, "first_failure": failure}
    assert outcome.err == f"first failure: {failure}\n"


def test_a_model_has_its_own_names_and_those_that_it_is_given(
    qwartet: CommandLine, chat_model: Path, source: Path, target: Path
) -> None:
    names = [str(chat_model), chat_model.name, "gpt-4o", "other"]
    write(source, [line(name, model=name) for name in [*names, "qwartet-demo"]])
    options = ("--model", chat_model, "--served-model-name", "gpt-4o", "--served-model-name", "other", *ON_CPU)
    assert qwartet("run-batch", source, target, *options).code == 1
    codes = {custom_id: entry["response"]["status_code"] for custom_id, entry in read(target).items()}
    assert codes == {**dict.fromkeys(names, 200), "qwartet-demo": 404}


def test_a_bad_line_is_answered_and_stops_nothing(qwartet: CommandLine, source: Path, target: Path) -> None:
    bad = [line("b", temprature=1), "broken", line("c", n=0), line("d", "/v1/embeddings")]
    write(source, [line("a"), *bad, line("e")])
    outcome = qwartet("run-batch", source, target, *ON_CPU, "-q")
    assert outcome.code == 1 and outcome.out.startswith("2 done, 4 failed; ")
    assert outcome.err.startswith("first failure: line 2: unsupported field 'temprature'")
    entries = read(target)
    codes = {custom_id: entry["response"]["status_code"] for custom_id, entry in entries.items()}
    assert codes == {"a": 200, "b": 400, None: 400, "c": 400, "d": 404, "e": 200}
    error = body(entries["b"])["error"]
    assert (error["param"], error["type"]) == ("temprature", "invalid_request_error")
    assert body(entries[None])["error"]["message"].startswith("line 3 is not valid JSON: ")


def test_a_second_run_does_what_is_missing_and_tries_failures_again(
    qwartet: CommandLine, source: Path, target: Path
) -> None:
    write(source, [line("a"), line("b", temprature=1), line("c")])
    qwartet("run-batch", source, target, *ON_CPU)
    before = read(target)
    write(source, [line("a"), line("b"), line("c"), line("d")])
    outcome = qwartet("run-batch", source, target, *ON_CPU)
    assert outcome.out.startswith("2 done, 0 failed, 2 skipped (answered before); ")
    after = read(target)
    assert sorted(after) == ["a", "b", "c", "d"] and body(after["b"])["choices"]
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    content = target.read_bytes()
    outcome = qwartet("run-batch", source, target, *ON_CPU)
    assert outcome.out.startswith("0 done, 0 failed, 4 skipped") and outcome.err == "", "no model is loaded for that"
    assert target.read_bytes() == content


def test_a_file_that_was_cut_is_gone_on_with(qwartet: CommandLine, source: Path, target: Path) -> None:
    write(source, [line(str(number)) for number in range(6)])
    qwartet("run-batch", source, target, *ON_CPU)
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) * 2 // 3])
    outcome = qwartet("run-batch", source, target, *ON_CPU, "--json")
    report = json.loads(outcome.out)
    assert report["done"] > 0 and report["skipped"] > 0 and report["done"] + report["skipped"] == 6
    assert sorted(read(target)) == [str(number) for number in range(6)]


def test_duplicates_are_refused_before_anything_is_written(qwartet: CommandLine, source: Path, target: Path) -> None:
    write(source, [line("a"), line("b"), "", line("a")])
    qwartet("run-batch", source, target).assert_one_line_error("'a' on lines 1, 4")
    assert not target.exists()


def test_files_that_cannot_be_meant_are_refused(qwartet: CommandLine, source: Path, target: Path) -> None:
    qwartet("run-batch", source, target).assert_one_line_error(f"{source}: no such file")
    write(source, [line("a")])
    content = source.read_bytes()
    qwartet("run-batch", source, source).assert_one_line_error("is both IN.jsonl and OUT.jsonl")
    target.symlink_to(source)
    qwartet("run-batch", source, target).assert_one_line_error("is both IN.jsonl and OUT.jsonl")
    target.unlink()
    target.write_text("my notes")
    qwartet("run-batch", source, target).assert_one_line_error("line 1 is not a batch answer")
    qwartet("run-batch", source, source.parent).assert_one_line_error("is a directory; pass the name of a file")
    qwartet("run-batch", source, source.parent / "no" / "out.jsonl").assert_one_line_error(
        "is not a directory; create it"
    )
    qwartet("run-batch", source, "-", "--json").assert_one_line_error("where the answers go")
    assert source.read_bytes() == content and target.read_text() == "my notes"


def test_without_requests_nothing_is_loaded(qwartet: CommandLine, source: Path, target: Path) -> None:
    outcome = qwartet("run-batch", write(source, ["", " "]), target)
    assert outcome.out.startswith("0 done, 0 failed; ") and outcome.err == ""


def test_standard_input_and_output_can_be_used(source: Path) -> None:
    write(source, [line("a"), line("b", COMPLETION)])
    outcome = run_in_process("run-batch", "-", "-", *ON_CPU, stdin=source.read_bytes())
    assert outcome.code == 0 and outcome.err.splitlines()[-1].startswith("2 done, 0 failed; ")
    assert {json.loads(raw)["custom_id"] for raw in outcome.out.splitlines()} == {"a", "b"}


def test_a_schema_is_kept_to(qwartet: CommandLine, source: Path, target: Path) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"is_ok": {"type": "boolean"}}, "required": ["is_ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "additionalProperties": False}}}
    write(source, [line(str(number), response_format=form, max_tokens=40, temperature=1) for number in range(8)])
    assert qwartet("run-batch", source, target, *ON_CPU).code == 0
    for entry in read(target).values():
        assert json.loads(body(entry)["choices"][0]["message"]["content"])["is_ok"] in (True, False)


def test_all_engine_options_reach_the_engine(
    qwartet: CommandLine, chat_model: Path, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def record(model: str, **options: Any) -> None:
        seen.update(options, model=model)
        raise KeyboardInterrupt

    monkeypatch.setattr("qwartet.llm.LLM", record)
    write(source, [line("a")])
    options = "--dtype fp32 --load-mode pread --max-model-len 1K --max-num-seqs 3 --force --activations exact"
    more = "--head exact --kv-cache-dtype int8 --draft-model x --speculation off --no-weight-cache --revision main"
    more += " --chat-format chatml"
    model = ("--model", chat_model, *ON_CPU)
    assert qwartet("run-batch", source, target, *model, *options.split(), *more.split()).code == 130
    del seen["on_packed"]
    assert seen == {
        "model": str(chat_model), "device": "cpu", "dtype": "fp32", "load_mode": "pread", "max_model_len": 1024,
        "max_num_seqs": 3, "force": True, "activations": "exact", "head": "exact", "kv_cache_dtype": "int8",
        "draft_model": "x", "speculation": "off", "weight_cache": False, "revision": "main",
        "chat_format": "chatml", "checkpoint_format": None, "adapters": {},
    }  # fmt: skip


def test_ctrl_c_leaves_a_valid_file_and_says_how_to_go_on(source: Path, target: Path, qwartet: CommandLine) -> None:
    num_lines = 3000
    write(source, [line(str(number), max_tokens=64, ignore_eos=True) for number in range(num_lines)])
    with Piped(["run-batch", str(source), str(target), *ON_CPU], environment()) as process:
        deadline = time.monotonic() + 60
        while not (target.exists() and target.stat().st_size > 10_000):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    found = re.search(rf"stopped: (\d+) of {num_lines} answered; run the same command again to resume\n$", err.decode())
    assert (process.wait(), out) == (130, b"") and found is not None, err
    entries = read(target)
    assert 0 < len(entries) == int(found[1]) < num_lines
    write(source, [line(str(number), max_tokens=2) for number in range(len(entries) + 50)])
    num_left = sum(str(number) not in entries for number in range(len(entries) + 50))
    report = json.loads(qwartet("run-batch", source, target, *ON_CPU, "--json").out)
    assert (report["done"], report["failed"]) == (num_left, 0)
    assert {custom_id: entry for custom_id, entry in read(target).items() if custom_id in entries} == entries


def test_a_terminal_gets_a_bar(source: Path, target: Path) -> None:
    write(source, [line(str(number)) for number in range(3)])
    with Terminal("run-batch", source, target, *ON_CPU, TERM="xterm") as terminal:
        terminal.expect(r"requests .*3/3")
        terminal.expect("3 done, 0 failed; ")
        assert terminal.wait() == 0


def test_a_reader_of_standard_output_that_goes_away_ends_the_run(source: Path) -> None:
    write(source, [line(str(number)) for number in range(50)])
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = run_forked(["run-batch", str(source), "-", "-q", *ON_CPU], environment(), stdout=writer)
    os.close(writer)
    assert (code, err) == (1, b"")


def test_its_help_loads_nothing_of_the_server() -> None:
    code = "import sys, qwartet; from qwartet.cli.main import run; run(['run-batch', '--help'])"
    # serve's options are made of these two, which load nothing.
    known = {"qwartet.server", "qwartet.server.access", "qwartet.server.limits"}
    rooms = ("asyncio", "fastapi", "starlette", "uvicorn", "qwartet.server", "qwartet.openai_api")
    found = f"[name for name in sys.modules if name.startswith({rooms}) and name not in {known}]"
    report = f"print({found}, file=sys.stderr)"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert ast.literal_eval(result.stderr.splitlines()[-1]) == []


def test_without_pydantic_it_says_what_to_install(
    qwartet: CommandLine, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        assert name == "pydantic"
        return None

    monkeypatch.setattr("qwartet.cli.extras.find_spec", find_spec)
    qwartet("run-batch", source, target).assert_one_line_error("pip install 'qwartet[server]'")


def test_standard_input_may_hold_what_is_no_text(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n" + json.dumps(line("a")).encode())))
    outcome = qwartet("run-batch", "-", "-", *ON_CPU, "-q")
    codes = [json.loads(raw)["response"]["status_code"] for raw in outcome.out.splitlines()]
    assert sorted(codes) == [200, 400]
