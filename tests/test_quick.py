"""`make quick` runs the tests of the changed files."""

from __future__ import annotations

import pytest

from tests import quick
from tests.golden_data import REPOSITORY


@pytest.mark.parametrize(
    ("path", "targets"),
    [
        ("engine", ["tests/engine"]),
        ("qwartet/engine/engine.py", ["tests/engine"]),
        ("qwartet/kernels/cpu/csrc/attention.cpp", ["tests/kernels"]),
        ("tests/engine/worlds.py", ["tests/engine"]),
        ("qwartet/llm.py", ["tests/test_llm.py"]),
        ("tests/test_llm.py", ["tests/test_llm.py"]),
        ("recipes/demo/make.py", ["tests/recipes"]),
        ("deploy/Containerfile", ["tests/test_deploy.py"]),
        ("docs/security.md", list(quick.OF_DOCUMENTS)),
        ("tests/tiny_checkpoint.py", []),
        ("nothing", []),
    ],
)
def test_a_file_leads_to_the_tests_of_its_room(path: str, targets: list[str]) -> None:
    assert list(quick.tests_of(path)) == targets


def test_what_is_named_is_there() -> None:
    for name in (*quick.LONG, quick.ALWAYS, *quick.OF_DOCUMENTS):
        file, _, function = name.partition("::")
        assert (REPOSITORY / file).exists()
        assert not function or f"def {function}(" in (REPOSITORY / file).read_text(encoding="utf-8")


def test_every_room_with_tests_can_be_named() -> None:
    rooms = [path.name for path in (REPOSITORY / "qwartet").iterdir() if (path / "__init__.py").exists()]
    assert rooms and all(list(quick.tests_of(room)) for room in rooms if (REPOSITORY / "tests" / room).exists())
