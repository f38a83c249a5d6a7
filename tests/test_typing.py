"""What a type checker knows about the package: names that are loaded on first use, and settings given as keywords."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import qwartet
from qwartet.engine.sampling_params import SamplingOptions, SamplingParams
from qwartet.errors import SettingError
from qwartet.models.generation_keys import PUBLISHED_NAMES

SNIPPET = """\
from qwartet import LLM, SamplingParams

def ask(llm: LLM) -> str:
    response, history = llm.chat("hi", temperature=0.5, max_new_tokens=9, stop=["END"], logit_bias={5: 1.0})
    reveal_type(history)
    reveal_type(llm.generate(["hi"], SamplingParams(n=2))[0].text)
    return response

def mistaken(llm: LLM) -> None:
    llm.chat("hi", temprature=1)
    llm.chat("hi", temperature="hot")
    LLM(3)
"""
EXPECTED = [
    (5, "note", 'Revealed type is "list[tuple[str, str]]"'),
    (6, "note", 'Revealed type is "str"'),
    (10, "error", 'Unexpected keyword argument "temprature" for "chat" of "LLM"'),
    (11, "error", 'Argument "temperature" to "chat" of "LLM" has incompatible type "str"'),
    (12, "error", 'Argument 1 to "LLM" has incompatible type "int"'),
]


@pytest.mark.slow
def test_a_type_checker_knows_the_public_names_and_every_sampling_setting(tmp_path: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET, encoding="utf-8")
    root = Path(qwartet.__file__).parent.parent
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", str(path)]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600).stdout.splitlines()
    # mypy's cache may have messages of the same file from an earlier run, in another directory.
    told = [line.partition(f"{path.name}:")[2] for line in found if path.name in line and " defined " not in line]
    assert len(told) == len(EXPECTED), found
    for line, (number, kind, message) in zip(told, EXPECTED, strict=True):
        assert line.replace("builtins.", "").startswith(f"{number}: {kind}: {message}"), line


def test_the_keywords_are_the_fields_of_sampling_params_and_the_published_names() -> None:
    names = {field.name for field in fields(SamplingParams)}
    assert set(SamplingOptions.__annotations__) == names | set(PUBLISHED_NAMES) | {"do_sample"}
    for name in SamplingOptions.__annotations__:
        assert SamplingParams().updated({name: None}) == SamplingParams()


def test_a_misspelt_setting_is_named_at_run_time_too() -> None:
    with pytest.raises(SettingError, match=r"unknown sampling setting 'temprature'; did you mean temperature\?"):
        SamplingParams().updated({"temprature": 1})


def test_the_names_for_type_checkers_are_those_that_are_loaded_on_first_use() -> None:
    tree = ast.parse(Path(qwartet.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == qwartet._LAZY


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(qwartet.__file__).parent / "py.typed").is_file()
