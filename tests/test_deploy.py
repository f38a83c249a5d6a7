"""The files in deploy/ match the command line and the repository; no image is built and no service started."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qwartet.cli.main import command_tree
from qwartet.cli.settings.configuration import known_variables, verbs
from tests.documents import code_spans, shell_lines
from tests.golden_data import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
README = "deploy/README.md"
COMPILERS = re.compile(r"(?<!\S)(?:g\+\+|gcc|clang|build-essential|cmake)(?!\S)")


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments) pairs, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


@pytest.fixture(scope="module")
def stages() -> list[list[tuple[str, str]]]:
    """The instructions of the Containerfile, by stage; the first holds those before any FROM."""
    found: list[list[tuple[str, str]]] = [[]]
    for name, rest in instructions((DEPLOY / "Containerfile").read_text(encoding="utf-8")):
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


@pytest.fixture(scope="module")
def unit() -> list[tuple[str, str]]:
    """(key, value) of the unit's [Service] section, in order."""
    section = (DEPLOY / "qwartet.service").read_text(encoding="utf-8").partition("[Service]\n")[2].partition("\n[")[0]
    lines = [line for line in section.splitlines() if line and not line.startswith("#")]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def values(pairs: list[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in pairs if key == name]


def serve_settings(arguments: list[str]) -> dict[str, Any]:
    """The options that `qwartet serve` parses from arguments; an error if it would reject them."""
    settings: dict[str, Any] = verbs(command_tree())["serve",].make_context("serve", list(arguments)).params
    return settings


def test_the_final_image_has_no_compiler_and_the_python_that_it_was_built_with(stages) -> None:
    _, build, final = stages
    assert any(COMPILERS.search(rest) for _, rest in build)
    assert not [rest for _, rest in final if COMPILERS.search(rest) or "apt-get" in rest or "pip" in rest]
    assert build[0][1].split()[0] == final[0][1].split()[0] == "${BASE}"
    assert ("COPY", "--from=build /opt/qwartet /opt/qwartet") in final


def test_what_the_image_is_built_from_is_here_and_is_all_that_a_build_needs(stages) -> None:
    copied = {
        name
        for key, rest in stages[1]
        if key == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }  # fmt: skip
    assert all((REPOSITORY / name).exists() for name in copied)
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    needed = json.loads(re.search(r"\[tool\.hatch\.build\.targets\.sdist\]\ninclude = (\[.*\])", project)[1])
    assert copied == {*needed, "pyproject.toml"}


def test_the_image_serves_as_somebody_who_is_not_root(stages) -> None:
    final = stages[2]
    (user,) = values(final, "USER")
    assert all(int(part) > 0 for part in user.split(":"))
    assert [key for key, _ in final].index("USER") < [key for key, _ in final].index("CMD")
    assert values(final, "ENTRYPOINT") == ['["qwartet"]'] and values(final, "CMD") == ['["serve"]']


def image_environment(stages) -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in values(stages[2], "ENV") for pair in shlex.split(rest))


def test_the_image_s_settings_are_settings_and_its_port_is_the_one_that_is_shown(stages, monkeypatch) -> None:
    own = {name: value for name, value in image_environment(stages).items() if name.startswith("QWARTET_")}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    settings = serve_settings([])
    assert set(own) <= known_variables(command_tree())
    assert values(stages[2], "EXPOSE") == [str(settings["port"])]
    assert settings["host"] == "0.0.0.0"  # a container has its own network


def test_the_image_s_health_check_is_python_and_asks_for_a_path_that_there_is(stages) -> None:
    (check,) = values(stages[2], "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"] and "/health/live" in command[2]
    ast.parse(command[2])
    application = REPOSITORY / "qwartet" / "server" / "app.py"
    if application.exists():
        assert '"/health/live"' in application.read_text(encoding="utf-8")


def test_the_unit_s_command_line_is_one_that_serve_takes(unit) -> None:
    (command,) = values(unit, "ExecStart")
    program, verb, *arguments = shlex.split(command)
    assert (Path(program).name, verb) == ("qwartet", "serve")
    settings = serve_settings(arguments)
    assert settings["host"] == "127.0.0.1"  # other clients connect through a proxy
    assert settings["api_key_file"] == Path("%d/api-keys")
    assert any(credential.startswith("api-keys:/") for credential in values(unit, "LoadCredential"))


def test_the_unit_waits_longer_for_the_end_than_the_server_for_open_answers(unit) -> None:
    (command,) = values(unit, "ExecStart")
    settings = serve_settings(shlex.split(command)[2:])
    # 2 s to notify clients of the shutdown, 2 s for connections (server/run.py)
    assert int(*values(unit, "TimeoutStopSec")) >= settings["shutdown_timeout"] + 4


def test_the_unit_s_variables_are_settings(unit) -> None:
    names = {pair.partition("=")[0] for value in values(unit, "Environment") for pair in shlex.split(value)}
    assert {name for name in names if name.startswith("QWARTET_")} <= known_variables(command_tree())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("UMask", "0077"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
    ],
)
def test_the_unit_gives_the_service_no_more_than_it_needs(unit, key: str, value: str) -> None:
    assert values(unit, key) == [value]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "qwartet.service").read_text(encoding="utf-8").replace("/opt/qwartet/bin/qwartet", "/bin/true")
    (tmp_path / "qwartet.service").write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", str(tmp_path / "qwartet.service")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    ours = [line for line in result.stderr.splitlines() if "qwartet.service" in line]
    assert (result.returncode, ours) == (0, [])


def test_every_serve_in_the_readme_is_one_that_serve_takes() -> None:
    spans = [shlex.split(code) for code in code_spans(README) if code.startswith("qwartet serve")]
    lines = [*shell_lines(README), *spans]
    found = [line[line.index("serve") + 1 :] for line in lines if "serve" in line]
    assert found
    for arguments in found:
        serve_settings(arguments)


def test_the_proxy_s_limit_is_the_server_s() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    assert "proxy_buffering off;" in text
    megabytes = int(re.search(r"client_max_body_size (\d+)m;", text)[1])
    assert megabytes << 20 == serve_settings([])["max_body"]
