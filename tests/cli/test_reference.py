"""docs/cli.md says what the commands are."""

from __future__ import annotations

import re
import subprocess
import sys

from qwartet.cli.main import command_tree
from qwartet.cli.reference import reference
from qwartet.cli.settings.configuration import settings, verbs
from tests.cli.command_line import CommandLine, environment
from tests.golden_data import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "cli.md"


def test_the_document_is_what_the_commands_say() -> None:
    is_current = DOCUMENT.read_text(encoding="utf-8") == reference()
    assert is_current, "docs/cli.md is not what the commands say; run: python -m qwartet.cli.reference > docs/cli.md"


def test_the_document_depends_on_nothing_but_the_commands(tmp_path) -> None:
    (tmp_path / "settings.yaml").write_text("chat: {system: x}", encoding="utf-8")
    changes = {
        "COLUMNS": "40",
        "QWARTET_TOP_K": "7",
        "QWARTET_CONFIG": str(tmp_path / "settings.yaml"),
        "LANG": "zh_CN.UTF-8",
    }
    command = [sys.executable, "-m", "qwartet.cli.reference"]
    result = subprocess.run(command, capture_output=True, env=environment(**changes), timeout=60, check=True)
    assert result.stdout.decode() == reference()


def test_every_verb_and_every_option_has_its_row() -> None:
    text = reference()
    for path, command in verbs(command_tree()).items():
        if command.hidden:
            continue
        section = re.split(r"^#+ ", text.partition(f"# qwartet {' '.join(path)}\n")[2], maxsplit=1, flags=re.M)[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert len(rows) == len([p for p in command.params if p.name != "config"]), path
        for key, parameter in settings(command).items():
            variable = f"`QWARTET_{key.replace('-', '_').upper()}`"
            flags = [f"`{flag}" for flag in (*parameter.opts, *parameter.secondary_opts) if flag.startswith("-")]
            assert any(variable in row and all(flag in row for flag in flags) for row in rows), (path, key)


def test_the_settings_that_the_introduction_shows_are_valid(qwartet: CommandLine, tmp_path) -> None:
    example = reference().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "settings.yaml").write_text(example, encoding="utf-8")
    outcome = qwartet("config", "--config", tmp_path / "settings.yaml", "chat")
    assert outcome.code == 0 and "Answer in one sentence." in outcome.out
