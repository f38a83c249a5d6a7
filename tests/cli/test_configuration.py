"""Where the value of an option comes from: the command line, the environment, a file, its default."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qwartet.cli.main import command_tree
from qwartet.cli.settings import configuration
from qwartet.cli.settings.configuration import ConfigFile, known_variables, settings, variables, verbs
from tests.cli.command_line import CommandLine, Outcome, environment
from tests.golden_data import REPOSITORY

# (verb, option, what may be written for it, what it then is)
OPTIONS: dict[tuple[str, str], Callable[[int], tuple[str, Any]]] = {
    ("chat", "top-k"): lambda n: (str(n), n),
    ("chat", "temperature"): lambda n: (f"{n}.5", n + 0.5),
    ("chat", "system"): lambda n: (f"yes {n}: no", f"yes {n}: no"),
    ("chat", "max-model-len"): lambda n: (f"{n + 1}K", (n + 1) * 1024),
    ("chat", "model"): lambda n: (f"/models/{n}", f"/models/{n}"),
    ("chat", "kv-cache-dtype"): lambda n: (("auto", "int8", "int4")[n % 3],) * 2,
    ("run-batch", "served-model-name"): lambda n: (f"name-{n}", [f"name-{n}"]),
    ("bench throughput", "rate"): lambda n: (f"{n}.25", n + 0.25),
    ("quantize", "calibration"): lambda n: (f"text-{n}.json", f"text-{n}.json"),
}
LAYERS = ("command line", "variable of the verb", "variable", "section of the verb", "section all")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that every command line of the test reads; empty so far."""
    path = tmp_path / "settings.yaml"
    path.write_text("", encoding="utf-8")
    monkeypatch.setenv("QWARTET_CONFIG", str(path))
    return path


def shown(qwartet: CommandLine, verb: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """What `qwartet config VERB` says of each option, by its name."""
    outcome = qwartet("config", "--json", *verb.split(), *arguments)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    return {row["option"]: row for row in json.loads(outcome.out)["options"]}


def option_name(key: str) -> str:
    return "MODEL" if key == "model" else f"--{key}"


def nested(verb: str, section: dict[str, str]) -> dict[str, Any]:
    for name in reversed(verb.split()):
        section = {name: section}  # type: ignore[dict-item]
    return section


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    option=st.sampled_from(list(OPTIONS)),
    numbers=st.lists(st.integers(0, 999), min_size=5, max_size=5, unique=True),
    present=st.sets(st.sampled_from(LAYERS), min_size=1),
)
def test_rel_24_the_first_layer_that_has_a_value_wins(
    qwartet: CommandLine, file: Path, option: tuple[str, str], numbers: list[int], present: set[str]
) -> None:
    (verb, key), spell = option, OPTIONS[option]
    text = {layer: spell(number)[0] for layer, number in zip(LAYERS, numbers, strict=True)}
    expected = next(spell(number)[1] for layer, number in zip(LAYERS, numbers, strict=True) if layer in present)
    own, general = variables(tuple(verb.split()), key)
    values = {own: text[LAYERS[1]] if LAYERS[1] in present else ""}  # an empty variable is not set
    values |= {general: text[LAYERS[2]] if LAYERS[2] in present else ""}
    sections: dict[str, Any] = nested(verb, {key: text[LAYERS[3]]}) if LAYERS[3] in present else {}
    sections |= {"all": {key: text[LAYERS[4]]}} if LAYERS[4] in present else {}
    file.write_text(json.dumps(sections), encoding="utf-8")  # JSON is YAML
    typed = [text[LAYERS[0]]] if key == "model" else [f"--{key}", text[LAYERS[0]]]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        row = shown(qwartet, verb, *(typed if LAYERS[0] in present else []))[option_name(key)]
    assert row["value"] == expected


@pytest.mark.parametrize(
    ("present", "source", "origin"),
    [
        (5, "command line", None),
        (4, "environment", "QWARTET_CHAT_TOP_K"),
        (3, "environment", "QWARTET_TOP_K"),
        (2, "file", "{file}: line 2: chat.top-k"),
        (1, "file", "{file}: line 4: all.top-k"),
        (0, "default", None),
    ],
)
def test_rel_24_each_layer_covers_those_below_it_and_is_named(
    qwartet: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch, present: int, source: str, origin: str | None
) -> None:
    lines = ["chat:", "  top_k: 2" if present >= 2 else "", "all:", "  top-k: 1" if present >= 1 else ""]
    file.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("QWARTET_TOP_K", "3" if present >= 3 else "")
    monkeypatch.setenv("QWARTET_CHAT_TOP_K", "4" if present >= 4 else "")
    row = shown(qwartet, "chat", *(["--top-k", "5"] if present >= 5 else []))["--top-k"]
    assert row["value"] == (present or None)
    assert (row["source"], row["origin"]) == (source, origin and origin.format(file=file))


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("on", True), ("0", False), ("false", False)])
def test_rel_24_a_switch_can_be_set_both_ways_in_each_layer(
    qwartet: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: bool
) -> None:
    file.write_text(f"chat: {{greedy: {text}, weight-cache: {text}}}", encoding="utf-8")
    rows = shown(qwartet, "chat")
    assert rows["--greedy"]["value"] is value and rows["--weight-cache"]["value"] is value
    opposite = "0" if value else "1"
    monkeypatch.setenv("QWARTET_GREEDY", opposite)
    monkeypatch.setenv("QWARTET_WEIGHT_CACHE", opposite)
    rows = shown(qwartet, "chat")
    assert rows["--greedy"]["value"] is not value and rows["--weight-cache"]["value"] is not value
    flag = "--weight-cache" if value else "--no-weight-cache"
    assert shown(qwartet, "chat", flag)["--weight-cache"]["value"] is value


def test_rel_24_a_repeatable_option_is_a_list_in_a_file_and_words_in_a_variable(
    qwartet: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(*arguments: str) -> list[str]:
        value: list[str] = shown(qwartet, "run-batch", *arguments)["--served-model-name"]["value"]
        return value

    file.write_text("run-batch: {served-model-name: [a, 'b c']}", encoding="utf-8")
    assert names() == ["a", "b c"]
    monkeypatch.setenv("QWARTET_SERVED_MODEL_NAME", "d e")
    assert names() == ["d", "e"]
    assert names("--served-model-name", "f", "--served-model-name", "g") == ["f", "g"]


def test_rel_24_the_file_beside_the_verb_covers_the_one_before_it_and_the_variable_and_the_default_place(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QWARTET_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "qwartet").mkdir()
    places = [tmp_path / "qwartet" / "config.yaml", *(tmp_path / f"{number}.yaml" for number in range(1, 4))]
    for number, path in enumerate(places):
        path.write_text(f"chat: {{seed: {number}}}", encoding="utf-8")

    def seed(before: list[object], after: list[object]) -> int:
        outcome = qwartet(*before, "config", "--json", *after, "chat")
        value: int = {row["option"]: row for row in json.loads(outcome.out)["options"]}["--seed"]["value"]
        return value

    assert seed([], []) == 0
    monkeypatch.setenv("QWARTET_CONFIG", str(places[1]))
    assert seed([], []) == 1
    assert seed(["--config", places[2]], []) == 2
    assert seed(["--config", places[2]], ["--config", places[3]]) == 3


def test_rel_24_a_key_with_nothing_behind_it_leaves_the_option_to_the_layers_below(
    qwartet: CommandLine, file: Path
) -> None:
    file.write_text("all: {top-k: 1, seed: }\nchat: {top-k: }", encoding="utf-8")
    rows = shown(qwartet, "chat")
    assert (rows["--top-k"]["value"], rows["--seed"]["source"]) == (1, "default")


def test_a_verb_runs_with_what_is_set(qwartet: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("cache: {json: true}", encoding="utf-8")
    assert json.loads(qwartet("cache").out)["removed"] is False
    monkeypatch.setenv("QWARTET_JSON", "0")
    assert "packed weights" in qwartet("cache").out


def test_a_lone_prompt_goes_to_the_model_that_is_set_elsewhere(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWARTET_MODEL", "/nowhere")
    qwartet("chat", "Good morning!").assert_one_line_error("/nowhere")


def test_a_model_that_is_set_elsewhere_is_never_taken_for_a_prompt(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWARTET_MODEL", "no such model")
    qwartet("chat", "--prompt", "x").assert_one_line_error("no such model")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    qwartet("chat").assert_one_line_error("no such model")


@pytest.mark.parametrize(
    ("name", "value", "fragments"),
    [
        ("QWARTET_TOP_K", "many", ["QWARTET_TOP_K: invalid value for '--top-k'", "integer"]),
        ("QWARTET_CHAT_GREEDY", "perhaps", ["QWARTET_CHAT_GREEDY: invalid value for '--greedy'", "boolean"]),
        ("QWARTET_DTYPE", "bf61", ["QWARTET_DTYPE: ", "'bf16'"]),
        ("QWARTET_MAX_MODEL_LEN", "8q", ["QWARTET_MAX_MODEL_LEN: ", "write 4096, 32k"]),
    ],
)
def test_rel_24_a_wrong_value_in_the_environment_is_one_line_with_the_name_and_what_is_wanted(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch, name: str, value: str, fragments: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    qwartet("chat", "--prompt", "x").assert_one_line_error(*fragments)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("chat:\n  top-k: many", ["line 2: chat.top-k: invalid value for '--top-k'", "integer"]),
        ("all:\n  dtype: bf61", ["line 2: all.dtype: ", "'bf16'"]),
        ("chat:\n  top-k: [1, 2]", ["line 2: chat.top-k takes one value"]),
        ("chat:\n  top-k: {a: b}", ["line 2: chat.top-k takes one value"]),
        ("chat:\n  top-kk: 1", ["line 2: chat.top-kk is not an option; did you mean top-k?"]),
        ("chat:\n  port: 1", ["line 2: chat.port is not an option; "]),
        ("all:\n  theads: 1", ["line 2: all.theads is not an option; did you mean threads?"]),
        ("chat:\n  no_weight_cache: true", ["no-weight-cache is not an option; write weight-cache: false"]),
        ("chta:\n  top-k: 1", ["line 1: chta is not a command; did you mean chat?"]),
        ("bench: {throughputs: {seed: 1}}", ["bench.throughputs is not a command; did you mean throughput?"]),
        ("bench: {all: {seed: 1}}", ["bench.all is not a command; "]),
        ("threads: 1", ["line 1: threads is not a command; options belong in the section of a command, or in all"]),
        ("chat: 1", ["line 1: chat is not a section; write chat: {OPTION: VALUE}"]),
        ("run-batch:\n  served-model-name: {a: b}", ["line 2: run-batch.served-model-name is a section"]),
    ],
)
def test_rel_24_a_wrong_file_is_one_line_with_the_file_the_place_and_what_to_do(
    qwartet: CommandLine, file: Path, text: str, fragments: list[str]
) -> None:
    file.write_text(text, encoding="utf-8")
    verb = "run-batch" if text.startswith("run-batch") else "chat"
    qwartet("config", verb).assert_one_line_error(f"{file}: ", *fragments)
    if verb == "chat":
        qwartet("chat", "--prompt", "x").assert_one_line_error(f"{file}: ", *fragments)


def test_help_needs_no_sound_file(qwartet: CommandLine, file: Path) -> None:
    file.write_text("[", encoding="utf-8")
    for arguments in (["--help"], ["chat", "--help"], ["--version"]):
        outcome = qwartet(*arguments)
        assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize("path", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read_is_one_line(qwartet: CommandLine, tmp_path: Path, path: str) -> None:
    qwartet("cache", "--config", tmp_path / path).assert_one_line_error(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QWARTET_TOPK", "QWARTET_TOP_K"),
        ("QWARTET_MAX_MODEL_LENGTH", "QWARTET_MAX_MODEL_LEN"),
        ("QWARTET_CHAT_SYSTM", "QWARTET_CHAT_SYSTEM"),
        ("QWARTET_threads", "QWARTET_THREADS"),
        ("QWARTET_CONFIGS", "QWARTET_CONFIG"),
    ],
)
def test_rel_24_a_variable_that_is_nearly_one_of_ours_is_warned_of(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1\x1b[31m")
    outcome = qwartet("cache")
    assert (outcome.code, outcome.err) == (0, f"warning: unknown variable {name}; did you mean {meant}?\n")


def test_variables_of_others_and_of_other_parts_of_ours_are_left_in_peace(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QWARTET_RELEASE_CHANNEL", "QWARTET_GOLDEN", "QWARTET_CPU_ISA", "QWARTET_DEBUG", "QWART_TOP_K"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("QWARTET_CPU_ISA")
    assert qwartet("cache").err == ""


def test_every_variable_that_the_package_names_is_known() -> None:
    named = set()
    for path in (REPOSITORY / "qwartet").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"(?<!-D)\bQWARTET_[A-Z_]*[A-Z]", text))
    assert "QWARTET_CACHE" in named
    assert named - known_variables(command_tree()) <= {"QWARTET_CHAT_", "QWARTET_SERVE_PORT", "QWARTET_PORT"}


def test_no_option_takes_the_name_of_a_variable_that_is_read_elsewhere() -> None:
    own = {
        name
        for path, command in verbs(command_tree()).items()
        for key in settings(command)
        for name in variables(path, key)
    }
    assert not own & set(configuration.OTHER_VARIABLES)


def test_an_option_beside_an_argument_of_its_name_is_set_by_the_name_of_its_parameter() -> None:
    app = typer.Typer()

    @app.callback()
    def root(config: ConfigFile = None) -> None: ...

    @app.command()
    def chat(
        model_name: Annotated[str | None, typer.Option("--model")] = None,
        model: Annotated[str | None, typer.Argument()] = None,
    ) -> None: ...

    command = verbs(typer.main.get_command(app))["chat",]
    assert {key: parameter.name for key, parameter in settings(command).items()} == {
        "model": "model",
        "model-name": "model_name",
    }


def test_a_variable_means_one_option_of_a_verb() -> None:
    meanings: dict[str, set[tuple[tuple[str, ...], str]]] = {}
    for path, command in verbs(command_tree()).items():
        for key in settings(command):
            own, general = variables(path, key)
            meanings.setdefault(own, set()).add((path, key))
            meanings.setdefault(general, set()).add(((), key))
    assert not {name: meant for name, meant in meanings.items() if len(meant) > 1}


def test_completions_need_no_sound_file_and_load_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("[", encoding="utf-8")

    def completions(words: str) -> Outcome:
        code = "import sys\nfrom qwartet.cli.main import run\ntry: run([])\nfinally: print([n for n in ('torch', "
        code += "'transformers', 'fastapi', 'yaml') if n in sys.modules], file=sys.stderr)"
        wanted = {"_QWARTET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        changes = environment(QWARTET_CONFIG=str(tmp_path / "broken.yaml"), **wanted)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=changes, timeout=60)
        return Outcome(result.returncode, result.stdout, result.stderr)

    for words, found in (("qwartet ch", "chat"), ("qwartet chat --top", "--top-k"), ("qwartet chat --dtype b", "bf16")):
        outcome = completions(words)
        assert outcome.code == 0 and found in outcome.out.split(), outcome
        assert ast.literal_eval(outcome.err) == []


def test_the_shell_s_script_for_completions_can_be_had() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "qwartet.cli.main", "--show-completion", "bash"],
        capture_output=True, text=True, env=environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"), timeout=60,
    )  # fmt: skip
    assert "_QWARTET_COMPLETE=complete_bash" in result.stdout and result.returncode == 0
