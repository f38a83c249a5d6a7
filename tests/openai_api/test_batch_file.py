"""The files of a batch: reading IN, and what OUT holds after an interruption, damage or failures."""

from __future__ import annotations

import io
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwartet.errors import SettingError
from qwartet.openai_api import batch_file
from qwartet.openai_api.batch_file import AnswerFile, BatchInput, entry_line, hash_id, open_input

NONE = np.zeros(0, dtype=np.uint64)


def entry(custom_id: str | None, status: int = 200, text: str = "") -> dict[str, Any]:
    response = {"status_code": status, "request_id": "req_1", "body": {"text": text}}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}


def batch(*lines: str) -> BatchInput:
    return BatchInput(io.BytesIO("\n".join(lines).encode()), "in.jsonl")


def request(custom_id: Any) -> str:
    return json.dumps({"custom_id": custom_id})


def resumed(path: Path) -> set[int]:
    """The hashes of the ids that OUT holds answers to."""
    answers = AnswerFile(path)
    answers.close()
    return set(answers.answered.tolist())


def ids_in(path: Path) -> list[str | None]:
    return [json.loads(line)["custom_id"] for line in path.read_bytes().splitlines()]


def test_lines_keep_their_numbers_and_empty_ones_are_passed_over() -> None:
    lines = batch("", request("a"), "  \t", "broken", request("b"))
    assert lines.num_lines == 3
    assert [line.number for line in lines.unanswered(NONE)] == [2, 4, 5]


def test_answered_lines_are_passed_over_as_often_as_it_is_read() -> None:
    lines = batch(request("a"), "broken", request("b"), request(3), request("c"))
    answered = np.array([hash_id("c"), hash_id("a"), hash_id("z")], dtype=np.uint64)
    assert lines.count_unanswered(answered) == 3
    for _ in range(2):
        assert [line.number for line in lines.unanswered(answered)] == [2, 3, 4]


def test_an_id_that_comes_twice_is_refused_with_its_lines() -> None:
    with pytest.raises(SettingError, match=r"^in\.jsonl: duplicate .*: 'b' on lines 2, 4, 5; make each one unique$"):
        batch(request("a"), request("b"), request("c"), request("b"), request("b"))
    with pytest.raises(SettingError, match=r"'0' on lines 1, 11; .*'4' on lines 5, 15 and 5 more;"):
        batch(*(request(str(number % 10)) for number in range(20)))


def test_lines_without_an_id_are_no_duplicates() -> None:
    assert batch("broken", "broken", request(None), request(None), "[]", "[]").num_lines == 6


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", b"[" * 100_000, b'{"custom_id": "a"', b"1" * 5000, b"nul", b"\xef\xbb\xbf!"]
)
def test_what_is_not_json_is_told_and_does_not_stop_the_reading(raw: bytes) -> None:
    lines = BatchInput(io.BytesIO(raw + b"\n" + request("a").encode()), "x")
    first, second = lines.unanswered(NONE)
    with pytest.raises(ValueError):
        first.parse()
    assert second.parse() == {"custom_id": "a"}


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    lines = BatchInput(io.BytesIO(b"\xef\xbb\xbf" + request("a").encode()), "x")
    assert lines.count_unanswered(np.array([hash_id("a")], dtype=np.uint64)) == 0


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "MAX_LINE_BYTES", 40)
    lines = batch(request("a"), request("b" * 200), request("c"))
    found = list(lines.unanswered(NONE))
    assert [(line.number, line.is_too_long) for line in found] == [(1, False), (2, True), (3, False)]
    with pytest.raises(ValueError, match="more than 40 bytes"):
        found[1].parse()


def test_a_pipe_can_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(request("a")))
    writer.start()
    with open_input(tmp_path / "pipe") as file:
        lines = BatchInput(file, "pipe")
        assert len(list(lines.unanswered(NONE))) == 1
    writer.join()


def test_what_was_written_is_answered_the_next_time(tmp_path: Path) -> None:
    answers = AnswerFile(tmp_path / "out.jsonl")
    for custom_id in ("a", "你好", "\ud800", ""):
        answers.write(entry(custom_id))
        assert ids_in(tmp_path / "out.jsonl")[-1] == custom_id, "not in the file yet"
    answers.close()
    assert resumed(tmp_path / "out.jsonl") == {hash_id(custom_id) for custom_id in ("a", "你好", "\ud800", "")}


def test_a_file_cut_anywhere_is_repaired(tmp_path: Path) -> None:
    path, whole = tmp_path / "out.jsonl", entry_line(entry("a"))
    second = entry_line(entry("b", text="你好"))
    for length in range(len(second) + 1):
        path.write_bytes(whole + second[:length])
        is_whole = length >= len(second) - 1  # all but the newline
        assert resumed(path) == {hash_id("a")} | ({hash_id("b")} if is_whole else set())
        assert path.read_bytes() == whole + (second if is_whole else b"")


def test_failures_are_taken_out_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    entries = [entry("a"), entry("b", 400), entry(None, 400), entry("c"), entry("d", 500)]
    path.write_bytes(b"".join(map(entry_line, entries)))
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    answers = AnswerFile(tmp_path / "link")
    answers.write(entry("b"))
    answers.close()
    assert ids_in(path) == ["a", "c", "b"]
    assert (tmp_path / "link").is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "out.jsonl"]


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}}\n',
        entry_line(entry("a")) + b"my notes\n" + entry_line(entry("b")),
        b'{"id": "batch_req_1"}\n',
        b'{"id": "batch_req_\n' + entry_line(entry("b")),
        b"\n",
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="is not a batch answer; choose another file"):
        AnswerFile(path)
    assert path.read_bytes() == content


def test_a_file_that_another_run_writes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(entry_line(entry("a")) + entry_line(entry("b", 400)))
    first = AnswerFile(path)
    with pytest.raises(SettingError, match="another run is writing it; wait or choose another file"):
        AnswerFile(path)
    first.close()
    assert resumed(path) == {hash_id("a")}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_with_the_name_of_the_file() -> None:
    answers = AnswerFile(Path("/dev/full"))
    with pytest.raises(OSError) as caught:
        answers.write(entry("a"))
    answers.close()
    assert caught.value.filename == "/dev/full"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding_of_the_input(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(f"{request('a')}\n{json.dumps({'custom_id': '你'}, ensure_ascii=False)}\n", encoding=encoding)
    with open_input(path) as file:
        lines = list(BatchInput(file, "in.jsonl").unanswered(NONE))
    assert [line.parse()["custom_id"] for line in lines] == ["a", "你"]


def test_an_input_that_is_not_in_the_encoding_of_its_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes("a".encode("utf-16") + b"b")
    with pytest.raises(SettingError, match=r"in\.jsonl: .*utf-16.*; save it as UTF-8 text"):
        open_input(path)
