"""API keys may stand in the environment and in a file; nothing that is printed shows one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import typer

from qwartet.cli.settings.configuration import ConfigFile, is_secret, make_configurable
from qwartet.cli.settings.verb import HIDDEN, config

KEY = "sk-5ecret"


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]):
    """Runs a command with a verb that takes keys; returns the keys that it got, and all that was printed."""
    app = typer.Typer(rich_markup_mode=None)
    got: list[str] = []

    @app.callback()
    def root(config: ConfigFile = None) -> None: ...

    @app.command()
    def serve(api_key: Annotated[list[str] | None, typer.Option(help="Keys.")] = None, port: int = 8000) -> None:
        got.extend(api_key or ())

    app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(config)

    def call(*arguments: str) -> tuple[list[str], str]:
        got.clear()
        make_configurable(typer.main.get_command(app)).main(list(arguments), standalone_mode=False)
        return list(got), "".join(capsys.readouterr())

    return call


@pytest.fixture(params=["command line", "variable", "variable of the verb", "file"])
def arguments(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What brings the key to the verb: arguments, or nothing but a variable or file that has it."""
    if request.param == "command line":
        return ["--api-key", KEY]
    if request.param == "file":
        file = tmp_path / "settings.yaml"
        file.write_text(f"serve: {{api-key: {KEY}}}", encoding="utf-8")
        monkeypatch.setenv("QWARTET_CONFIG", str(file))
    else:
        name = "QWARTET_API_KEY" if request.param == "variable" else "QWARTET_SERVE_API_KEY"
        monkeypatch.setenv(name, KEY)
    return []


def test_a_key_comes_from_every_layer(printed, arguments: list[str]) -> None:
    assert printed("serve", *arguments) == ([KEY], "")


@pytest.mark.parametrize("show", [[], ["--json"]])
def test_config_says_that_a_key_is_set_and_never_what_it_is(printed, arguments: list[str], show: list[str]) -> None:
    _, text = printed("config", *show, "serve", *arguments)
    assert KEY not in text and HIDDEN in text
    if show:
        assert {row["option"]: row["value"] for row in json.loads(text)["options"]}["--api-key"] == HIDDEN


def test_config_without_a_verb_shows_no_key(printed, arguments: list[str]) -> None:
    assert KEY not in printed("config")[1]


def test_the_help_shows_no_key(printed, arguments: list[str]) -> None:
    text = printed("serve", *arguments, "--help")[1]
    assert "--api-key" in text and KEY not in text


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("api-key", True),
        ("hf-token", True),
        ("password", True),
        ("api-key-file", False),
        ("ssl-keyfile", False),
        ("max-tokens", False),
        ("keep-alive", False),
    ],
)
def test_keys_tokens_and_passwords_are_secret_and_names_of_files_are_not(key: str, secret: bool) -> None:
    assert is_secret(key) is secret
