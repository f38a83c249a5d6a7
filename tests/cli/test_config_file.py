"""A file of settings: what is taken from it, and what is refused at which line; a file may be anything."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qwartet.cli.settings.config_file import MAX_BYTES, Entry, read_config_file
from qwartet.errors import SettingError


def entries(path: Path, text: str | bytes) -> dict[str, Entry]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_config_file(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_sections_options_and_lists_keep_their_lines(file: Path) -> None:
    text = "# a comment\nall:\n  max_model_len: 8k\nrun-batch:\n  served-model-name: [a, 'b c']\n  seed:\n"
    assert entries(file, text) == {
        "all": Entry(2, {"max-model-len": Entry(3, "8k")}),
        "run-batch": Entry(4, {"served-model-name": Entry(5, ["a", "b c"]), "seed": Entry(6, None)}),
    }


@pytest.mark.parametrize("text", ["no", "1e3", "010", "0x10", "2026-01-01", "1_000", "12:30", ".inf", "8K", "true"])
def test_a_value_is_the_text_that_stands_there(file: Path, text: str) -> None:
    assert entries(file, f"chat: {{system: {text}}}")["chat"].content == {"system": Entry(1, text)}


@pytest.mark.parametrize(("text", "value"), [("", None), ("~", None), ("null", None), ('""', ""), ("'null'", "null")])
def test_nothing_behind_a_key_is_no_value_and_empty_quotes_are_one(file: Path, text: str, value: str | None) -> None:
    assert entries(file, f"chat:\n  system: {text}\n")["chat"].content == {"system": Entry(2, value)}


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "---\n...\n", "~", "\ufeff"])
def test_a_file_without_settings_sets_nothing(file: Path, text: str) -> None:
    assert entries(file, text) == {}


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("chat:\n  top-k: 1\n  top_k: 2\n", "line 3: duplicate key top-k, also on line 2"),
        ("chat: {}\nchat: {}\n", "line 2: duplicate key chat, also on line 1"),
        ("chat: &a {top-k: 1}\nplan: *a\n", "line 1: anchors and aliases are not supported"),
        ("chat:\n  system: *a\n", "line 2: anchors and aliases are not supported"),
        ("chat:\n  system: !!python/object/apply:os.system [x]\n", "line 2: tags are not supported"),
        ("chat:\n  top-k: !!int 5\n", "line 2: tags are not supported"),
        ("chat:\n\t- a\n", "line 2: not valid YAML ("),
        ("chat: {\n", "not valid YAML ("),
        ("chat: {}\n---\nplan: {}\n", "line 2: a second document"),
        ("- chat\n", "not a mapping"),
        ("chat\n", "not a mapping"),
        ("chat:\n  ? [a]\n  : b\n", "line 2: a key is not text"),
        ("chat:\n  ? {a: b}\n  : b\n", "line 2: a key is not text"),
        ("~: {}\n", "line 1: a key is not text"),
        ("chat:\n  a: [[b]]\n", "line 2: a list item is not text"),
        ("chat:\n  a: [~]\n", "line 2: a list item is not text"),
        ("a: {b: {c: {d: {e: f}}}}\n", "line 1: nested too deeply"),
        (b"chat:\n  system: \xff\n", "line 2, byte 16 (0xff) is not UTF-8"),
        ("chat:\n  system: \x00\n", "not valid YAML (invalid character)"),
        ("#" * (MAX_BYTES + 1), "larger than 64 KiB"),
    ],
)
def test_what_is_not_a_file_of_settings_is_refused_with_its_line(file: Path, text: str | bytes, fragment: str) -> None:
    with pytest.raises(SettingError) as caught:
        entries(file, text)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and fragment in message and "; " in message and "\n" not in message


@pytest.mark.parametrize(
    "secret", ["sk-1: sk-2", "{sk-1", "[sk-1", "'sk-1", "!sk-1 a", "*sk-1", "\tsk-1", "{sk-1: {}}"]
)
def test_a_refusal_shows_no_value(file: Path, secret: str) -> None:
    try:
        entries(file, f"serve:\n  api-key: {secret}\n")
    except SettingError as error:
        assert "sk-" not in str(error).removeprefix(str(file))


@pytest.mark.parametrize(
    "text", ["[", "{a: ", "[a,", "- ", "? ", "a: [", "'a\n", "a:\n ", "k: v\n", "&a ", "!a ", "[[],"]
)
def test_a_hostile_file_takes_no_minutes(file: Path, text: str) -> None:
    content = (text * MAX_BYTES)[:MAX_BYTES]
    read = threading.Thread(target=lambda: _ignore(file, content), daemon=True)
    read.start()
    read.join(30)  # half a second at most, even here; without the bound on depth, minutes
    assert not read.is_alive()


def _ignore(file: Path, content: str) -> None:
    with suppress(SettingError):
        entries(file, content)


@hypothesis_settings(deadline=None)  # a busy machine; the bound is the test above
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="ab:-_{}[]&*!?#|>'\" \n\t~", max_size=60)))
def test_any_content_is_settings_or_a_setting_error(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    try:
        found = entries(file, text)
    except SettingError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        assert all(isinstance(name, str) and isinstance(entry, Entry) for name, entry in found.items())
