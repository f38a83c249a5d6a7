"""A card runs our own commands and keeps what they say, also when one of them fails or the run is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwartet import DEMO
from qwartet.card import measure
from qwartet.card.document import markdown
from qwartet.card.file import read_card
from qwartet.card.measure import measure_card
from qwartet.card.steps import KEPT, CardModel, CardSettings, steps
from qwartet.errors import SettingError
from tests.tiny_checkpoint import write_tiny_checkpoint

DEMO_MODEL = CardModel("demo", str(DEMO))


def settings(directory: Path, **more: Any) -> CardSettings:
    return CardSettings((DEMO_MODEL, CardModel("other", f"{DEMO}/")), directory, **more)


class Commands:
    """Answers in place of our commands, and the commands that were run."""

    def __init__(self, fails: str = "", chat_format: str = "chatml") -> None:
        self.run: list[tuple[str, ...]] = []
        self._fails, self._chat_format = fails, chat_format

    def __call__(self, *arguments: str, shows_stderr: bool) -> dict[str, Any]:
        self.run.append(arguments)
        if arguments[0] == self._fails:
            raise SettingError(f"qwartet {arguments[0]} exited with 2 (see above); run it by itself to see why")
        sampling = {"chat_format": self._chat_format}
        return {"verb": arguments[0], "sampling": sampling, "python": "/usr/bin/python", "path": "/secret", "tasks": {}}


@pytest.fixture
def commands(monkeypatch) -> Commands:
    found = Commands()
    monkeypatch.setattr(measure, "own_json", found)
    return found


def test_which_commands_are_run(tmp_path, commands) -> None:
    measure_card(settings(tmp_path, shots=(0, 5)))
    verbs = [
        " ".join(arguments[:2]) if arguments[1] == "compare" else arguments[0] for arguments in map(_two, commands.run)
    ]
    assert verbs == [
        *("doctor", "inspect", "plan", "inspect", "plan", "chat", "chat", "chat", "evaluate", "evaluate", "evaluate"),
        *("evaluate", "evaluate compare", "evaluate compare", "profile"),
    ]
    outs = [arguments[-1] for arguments in commands.run if arguments[0] == "evaluate" and arguments[1] != "compare"]
    assert [Path(out).name for out in outs] == ["demo-0-shot", "other-0-shot", "demo-5-shot", "other-5-shot"]


def _two(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return (*arguments, "")


def test_what_is_kept_has_no_place_of_the_machine(tmp_path, commands) -> None:
    measure_card(settings(tmp_path))
    text = (tmp_path / "card.json").read_text(encoding="utf-8")
    assert "/secret" not in text and set(KEPT) >= {step["kind"] for step in json.loads(text)["steps"]}


def test_a_second_run_measures_only_what_the_first_did_not(tmp_path, monkeypatch) -> None:
    first, second = Commands(fails="profile"), Commands()
    monkeypatch.setattr(measure, "own_json", first)
    data = measure_card(settings(tmp_path))
    assert data.steps[-1].output is None and "exited with 2" in (data.steps[-1].failure or "")
    monkeypatch.setattr(measure, "own_json", second)
    data = measure_card(settings(tmp_path))
    assert [arguments[0] for arguments in second.run] == ["profile"] and data.steps[-1].output is not None


def test_what_was_measured_before_a_kill_is_on_the_disk(tmp_path, monkeypatch) -> None:
    commands = Commands()

    def killed(*arguments: str, shows_stderr: bool) -> dict[str, Any]:
        if arguments[0] == "chat":
            raise KeyboardInterrupt
        return commands(*arguments, shows_stderr=shows_stderr)

    monkeypatch.setattr(measure, "own_json", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_card(settings(tmp_path))
    assert [step.kind for step in read_card(tmp_path / "card.json").steps] == ["environment", *("inspect", "plan") * 2]


def test_a_second_run_that_is_killed_loses_nothing_of_the_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measure, "own_json", Commands(fails="plan"))
    measure_card(settings(tmp_path))

    def killed(*_arguments: str, shows_stderr: bool) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "own_json", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_card(settings(tmp_path))
    kinds = [step.kind for step in read_card(tmp_path / "card.json").steps]
    assert kinds.count("evaluate") == 2 and kinds[-1] == "profile"


def test_overwrite_starts_over_in_the_commands_too(tmp_path, commands) -> None:
    measure_card(settings(tmp_path))
    commands.run.clear()
    data = measure_card(settings(tmp_path), overwrite=True)
    assert sum("--overwrite" in arguments for arguments in commands.run) == 3  # two models, one profile
    assert len(commands.run) == len(data.steps) and not any("--overwrite" in step.command for step in data.steps)


def test_a_base_model_is_asked_nothing(tmp_path, monkeypatch) -> None:
    commands = Commands(chat_format="raw")
    monkeypatch.setattr(measure, "own_json", commands)
    measure_card(settings(tmp_path))
    assert not any(arguments[0] == "chat" for arguments in commands.run)


def test_a_model_without_a_vocabulary_has_a_card(tmp_path, commands) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    for file in directory.glob("*.tiktoken"):
        file.unlink()
    data = measure_card(CardSettings((CardModel("model", str(directory)),), tmp_path, profiles=False))
    assert not any(arguments[0] == "chat" for arguments in commands.run) and data.compression == {}
    assert "there is no vocabulary" in markdown(data, frozenset(), "en")


def test_without_data_only_the_tasks_that_need_none_are_run(tmp_path) -> None:
    def tasks(**more: Any) -> list[str]:
        wanted = steps(settings(tmp_path, **more))
        return [step.arguments[step.arguments.index("--tasks") + 1] for step in wanted if step.kind == "evaluate"]

    assert tasks(data=tmp_path / "absent") == ["needle"] * 2
    assert tasks(data=tmp_path) == ["all"] * 2
    assert tasks(data=tmp_path / "absent", tasks="mmlu") == ["mmlu"] * 2
    assert tasks(evaluates=False) == []


def test_names_must_tell_models_apart(tmp_path) -> None:
    with pytest.raises(SettingError, match="two models are called 'demo'"):
        CardSettings((DEMO_MODEL, DEMO_MODEL), tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"card": {}, "steps": [1]}', '{"card": {"models": 1}, "steps": []}']
)
def test_another_file_is_no_card(content: str, tmp_path) -> None:
    path = tmp_path / "card.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingError, match="is not a card of this version"):
        read_card(path)
