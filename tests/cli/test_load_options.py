"""The options of loading a model and of the limits of a server: declared once, for every verb that takes them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from qwartet.cli.loading import LoadOptions
from qwartet.cli.main import command_tree
from qwartet.cli.option_groups import with_groups
from qwartet.cli.settings.configuration import verbs
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError
from qwartet.llm import LLM
from qwartet.server.limits import Limits
from tests.cli.command_line import CommandLine


def defaults(verb: str) -> dict[str, Any]:
    return {parameter.name: parameter.default for parameter in verbs(command_tree())[verb,].params}


@pytest.mark.parametrize("verb", ["chat", "serve", "run-batch"])
def test_every_verb_that_loads_a_model_has_all_options_of_loading(verb: str) -> None:
    expected = vars(LoadOptions())
    assert {name: value for name, value in defaults(verb).items() if name in expected} == expected


def test_the_defaults_of_loading_are_llm_s_and_the_engine_s() -> None:
    own = {name: parameter.default for name, parameter in inspect.signature(LLM).parameters.items()}
    expected = {**vars(EngineConfig()), **own}
    given = {name: value for name, value in vars(LoadOptions()).items() if name != "threads"}  # the process's own
    assert given == {name: expected[name] for name in given}


def test_every_limit_of_a_server_is_an_option_with_its_own_default() -> None:
    found = defaults("serve")
    names = {field.name: field.name.removesuffix("_s").removesuffix("_bytes") for field in fields(Limits)}
    assert {field: found[option] for field, option in names.items()} == vars(Limits())


GIVEN = {
    "dtype": "fp32", "device": "cpu", "load_mode": "pread", "max_model_len": 4096, "activations": "exact",
    "head": "int8", "kv_cache_dtype": "int4", "draft_model": "/draft", "speculation": "off",
    "chat_format": "chatml", "checkpoint_format": "gptq",
    "weight_cache": False, "force": True,
}  # fmt: skip


@pytest.mark.parametrize("verb", ["chat", "serve", "run-batch"])
def test_what_is_given_reaches_the_loader(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch, chat_model: Path, tmp_path: Path, verb: str
) -> None:
    taken: dict[str, Any] = {}

    def load(model: Any, **settings: Any) -> None:
        taken.update(settings, model=model)
        raise SettingError("seen; nothing is loaded")

    monkeypatch.setattr("qwartet.llm.LLM", load)
    monkeypatch.setattr("qwartet.cli.serve._start_log", lambda level: None)  # other tests read the log
    (tmp_path / "in.jsonl").write_text('{"custom_id": "a"}\n', encoding="utf-8")
    own = {
        "chat": [chat_model, "hello"],
        "serve": [chat_model, "--port", 0],
        "run-batch": [tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--model", chat_model],
    }
    options: list[object] = ["--no-weight-cache", "--force"]
    for name, value in GIVEN.items():
        options += [] if isinstance(value, bool) else [f"--{name.replace('_', '-')}", value]
    outcome = qwartet(verb, *own[verb], *options)
    assert outcome.code == 2 and "seen; nothing is loaded" in outcome.err, outcome
    assert str(taken["model"]) == str(chat_model)
    assert {name: taken[name] for name in GIVEN} == GIVEN


@dataclass(frozen=True)
class Wait:
    """Two options, one of which must be given."""

    place: Annotated[str, typer.Option(help="Where.")]
    limit_s: Annotated[float, "How long."] = 5.0


def test_a_group_stands_where_its_parameter_does_and_its_fields_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    seen: list[tuple[int, Wait, bool]] = []

    @app.command()
    @with_groups
    def wait(*, count: int = 1, wait: Wait, last: bool = False) -> None:
        """Waits."""
        seen.append((count, wait, last))

    command = typer.main.get_command(app)
    assert [parameter.name for parameter in command.params] == ["count", "place", "limit", "last"]
    command.main(["--limit", "2", "--place", "here"], standalone_mode=False)
    assert seen == [(1, Wait("here", 2.0), False)]
    with pytest.raises(Exception, match="place"):
        command.main([], standalone_mode=False)
    command.main(["--help"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "Waits." in out and "How long.  [default: 5.0]" in out
