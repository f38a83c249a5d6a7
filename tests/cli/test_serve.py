"""What `qwartet serve` makes of its options, without serving."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qwartet.cli.loading import own_names
from qwartet.cli.main import run
from qwartet.cli.serve import AccessOptions, _access, _keys
from qwartet.errors import SettingError


def access(host: str = "127.0.0.1", **given: Any) -> AccessOptions:
    return AccessOptions(host, **given)


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qwartet.cli.extras.find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    assert run(["serve"]) == 2
    assert capsys.readouterr().err == "error: serve needs uvicorn; install it: pip install 'qwartet[server]'\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_this_machine_only_its_own_names_are_answered(host: str) -> None:
    assert _access(access(host)).allowed_hosts == ["localhost", "127.0.0.1", "[::1]"]
    assert "mine.local" in (_access(access(host, allowed_hosts=["mine.local"])).allowed_hosts or ())
    assert _access(access(host, allowed_hosts=["*"])).allowed_hosts is None


def test_a_unix_socket_has_no_name_to_guard(tmp_path: Path) -> None:
    assert _access(access(uds=tmp_path / "s")).allowed_hosts is None


def test_others_are_served_with_a_key_or_knowingly_without() -> None:
    with pytest.raises(SettingError, match="--api-key"):
        _access(access("0.0.0.0"))
    assert _access(access("0.0.0.0", api_key=["long-enough"])).allowed_hosts is None
    assert _access(access("0.0.0.0", insecure=True)).api_keys == []


def test_keys_come_from_options_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    file.write_text("first-key-1\n\n  second-key \n")
    file.chmod(0o600)
    assert _keys(["given-key"], file) == ["given-key", "first-key-1", "second-key"]
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    _keys([], file)
    assert "is readable by all users" in capsys.readouterr().err
    file.write_text("first-key-1\n", encoding="utf-16")
    assert _keys([], file) == ["first-key-1"]
    file.write_bytes("clé-clé-clé-1\n".encode("latin-1"))
    with pytest.raises(SettingError, match=r"line 1, byte 2 \(0xe9\) is not UTF-8 text"):
        _keys([], file)


@pytest.mark.parametrize("key", ["short", "with space in it", "schlüssel-lang", "tab\tinside-it", ""])
def test_a_key_that_no_header_carries_is_refused_unseen(key: str) -> None:
    with pytest.raises(SettingError) as refused:
        _keys([key], None)
    assert not key or key not in str(refused.value)


def test_a_directory_is_called_by_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "Qwen-7B-Chat").mkdir()
    assert own_names(str(tmp_path / "Qwen-7B-Chat")) == ["Qwen-7B-Chat"]
    assert own_names("Qwen/Qwen-7B-Chat") == ["Qwen/Qwen-7B-Chat", "Qwen-7B-Chat"]
    assert own_names(None) == ["qwartet-demo"]
