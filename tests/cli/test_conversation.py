"""Saved conversations: whole or not at all, and strictly read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwartet.cli.chat import conversation as conversation_module
from qwartet.cli.chat.conversation import Conversation, load_conversation, save_conversation
from qwartet.errors import SettingError
from tests.cli.command_line import listing

SAVED = Conversation("Be\nbrief. 请", [("你好", "Hello!\x1b[31m"), ("a\nb", "")], {"temperature": 0.5, "stop": ("x",)})


def save(path: Path, **changes: Any) -> Path:
    """A file as saved, with some keys changed."""
    save_conversation(SAVED, path, overwrite=True)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_conversation(SAVED, tmp_path / "a.json", overwrite=False)
    assert load_conversation(tmp_path / "a.json") == SAVED


def test_the_file_is_the_documented_one(tmp_path: Path) -> None:
    save_conversation(SAVED, tmp_path / "a.json", overwrite=False)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "format": "qwartet conversation",
        "version": 1,
        "system": "Be\nbrief. 请",
        "turns": [{"user": "你好", "assistant": "Hello!\x1b[31m"}, {"user": "a\nb", "assistant": ""}],
        "sampling": {"temperature": 0.5, "stop": ["x"]},
    }


def test_a_file_is_overwritten_only_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("mine")
    with pytest.raises(SettingError, match="already exists; /save! overwrites it"):
        save_conversation(SAVED, path, overwrite=False)
    assert path.read_text() == "mine"
    save_conversation(SAVED, path, overwrite=True)
    assert load_conversation(path) == SAVED


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("mine")
    before = listing(tmp_path)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        save_conversation(SAVED, path, overwrite=True)
    assert listing(tmp_path) == before


def test_nothing_but_a_file_is_overwritten(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SettingError, match="is not a file; choose another name"):
            save_conversation(SAVED, path, overwrite=True)
    with pytest.raises(SettingError, match="no such directory; "):
        save_conversation(SAVED, tmp_path / "no" / "a.json", overwrite=True)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"format": "another"}, "not a saved conversation; "),
        ({"version": 2}, "version 2 is not supported; it must be 1"),
        ({"version": True}, "version True is not supported; "),
        ({"more": 1}, "unsupported field 'more'; "),
        ({"turns": {}}, "turns must be a list"),
        ({"sampling": []}, "sampling an object"),
        ({"turns": [7]}, "turn 1 must have"),
        ({"turns": [{"user": "a"}]}, "turn 1 must have"),
        ({"turns": [{"user": "a", "assistant": None}]}, "turn 1, assistant is not a string; "),
        ({"turns": [{"user": 7, "assistant": "a"}]}, "turn 1, user is not a string; "),
        ({"turns": [{"user": "\ud800", "assistant": "a"}]}, "turn 1, user has an unpaired surrogate at offset 0; "),
        ({"system": ["a"]}, "system is not a string; "),
        ({"sampling": {"temperature": "hot"}}, "temperature is 'hot'; "),
        ({"sampling": {"temperature": float("nan")}}, "temperature is nan; "),
        ({"sampling": {"temperatur": 1}}, "unknown sampling setting 'temperatur'; "),
        ({"sampling": {"n": 4}}, "unknown sampling setting 'n'; "),
    ],
)
def test_a_file_that_is_not_wholly_a_conversation_is_refused(
    tmp_path: Path, changes: dict[str, Any], fragment: str
) -> None:
    path = save(tmp_path / "a.json", **changes)
    with pytest.raises(SettingError) as caught:
        load_conversation(path)
    assert str(caught.value).startswith(f"{path}: ") and fragment in str(caught.value)


@pytest.mark.parametrize("key", ["system", "turns", "sampling"])
def test_no_key_may_be_missing(tmp_path: Path, key: str) -> None:
    path = save(tmp_path / "a.json")
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    with pytest.raises(SettingError, match=f"missing field '{key}'; "):
        load_conversation(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"version": ' + b"9" * 5000 + b"}", b"7", b"null"]
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="; choose a file written by /save"):
        load_conversation(path)


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nothing", Path("/dev/zero")):
        with pytest.raises(SettingError, match="no such file; "):
            load_conversation(path)
    monkeypatch.setattr(conversation_module, "MAX_FILE_BYTES", 10)
    with pytest.raises(SettingError, match="is larger than 10 bytes; "):
        load_conversation(save(tmp_path / "a.json"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_the_encoding_of_a_conversation(tmp_path: Path, encoding: str) -> None:
    path = save(tmp_path / "talk.json")
    expected = load_conversation(path)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    assert load_conversation(path) == expected


def test_a_conversation_in_another_encoding_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes('{"a": "你"}'.encode("gbk"))
    with pytest.raises(
        SettingError, match=r"talk\.json .*line 1, byte 7 \(0xc4\) is not UTF-8 text; convert it: iconv"
    ):
        load_conversation(path)
