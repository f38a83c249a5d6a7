"""The READMEs: their Python runs, their commands and files exist, both languages say the same."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from qwartet import DEMO
from tests.documents import blocks, links, text_of, without_comments
from tests.golden_data import REPOSITORY

READMES = ("README.md", "README.zh.md")


@pytest.mark.parametrize("name", READMES)
def test_every_python_example_runs_with_the_bundled_model(name: str, capsys) -> None:
    examples = blocks(name, "python")
    assert examples
    for example in examples:
        exec(example.replace("Qwen/Qwen-72B-Chat-Int4", str(DEMO)), {})
    assert capsys.readouterr().out.strip()


def test_both_languages_show_the_same_code_and_the_same_links() -> None:
    def code_of(name: str, language: str) -> list[str]:
        return [without_comments(block) for block in blocks(name, language)]

    for language in ("sh", "python"):
        assert code_of("README.md", language) == code_of("README.zh.md", language)

    def pages(name: str) -> set[str]:
        """What it links to; a document and its Chinese twin count as one."""
        return {link.replace(".zh.md", ".md") for link in links(name)}

    assert pages("README.md") == pages("README.zh.md")
    english = [link for link in links("README.zh.md") if link.endswith(".md") and link != "README.md"]
    assert not [link for link in english if (REPOSITORY / link.replace(".md", ".zh.md")).exists()], (
        "these are in Chinese"
    )


@pytest.mark.parametrize("name", READMES)
def test_every_linked_file_exists(name: str) -> None:
    for link in links(name):
        assert (REPOSITORY / link).exists(), link


@pytest.mark.parametrize("name", READMES)
def test_every_make_target_and_verb_exists(name: str) -> None:
    text = text_of(name)
    makefile = text_of("Makefile")
    shell = "".join(blocks(name, "sh"))
    targets = set(re.findall(r"^make (\S+)", shell, flags=re.MULTILINE) + re.findall(r"`make (\S+?)`", text))
    assert targets >= {"chat", "test", "serve"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    verbs = set(re.findall(r"(?:`|^|/)qwartet (\w+)", text, flags=re.MULTILINE))
    assert verbs
    listed = subprocess.run(
        [sys.executable, "-m", "qwartet.cli.main", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(re.search(rf"^\s+{verb}\b", listed, flags=re.MULTILINE) for verb in verbs)


@pytest.mark.parametrize("name", READMES)
def test_shell_blocks_can_be_pasted(name: str) -> None:
    assert not re.search(r"^\$ ", text_of(name), flags=re.MULTILINE)


@pytest.mark.parametrize("name", READMES)
def test_the_bundled_models_table_is_that_of_its_measurement(name: str) -> None:
    """docs/demo_model.md has kinds down and precisions across, README the other way round."""
    measured = text_of("docs/demo_model.md")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in measured.splitlines() if "|" in line]

    def of_each_precision(kind: str) -> list[str]:
        [row] = [row for row in rows if row[0] == kind]
        return row[1:4] if "MB" in kind else row[2:5]

    kinds = ("arithmetic", "retrieval", "long retrieval", "react call", "knowledge")
    columns = [of_each_precision(kind) for kind in kinds]
    columns.append([f"{size} MB" for size in of_each_precision("weights, MB")])
    for index, precision in enumerate(("BF16", "Int8", "Int4")):
        cells = [values[index] for values in columns]
        assert f"| {precision} | {' | '.join(cells)} |" in text_of(name)
