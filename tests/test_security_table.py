"""docs/security.md matches the tests, and every guard of `make mutate` is still in its source file."""

from __future__ import annotations

import re

import pytest

from tests.golden_data import REPOSITORY
from tests.mutations.guards import GUARDS, Guard
from tests.mutations.run import source_problem
from tests.security_table import DOCUMENT, OUTCOMES, by_id, tables


def test_the_tables_are_those_that_the_tests_give() -> None:
    assert tables() in DOCUMENT.read_text(encoding="utf-8"), "make security-table regenerates them"


def test_every_id_of_a_test_has_an_outcome_and_every_outcome_a_test() -> None:
    found = {one for one in by_id() if not one.startswith("CK")}
    assert found == {one for one, outcome in OUTCOMES.items() if outcome}


def test_every_file_that_the_document_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", DOCUMENT.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (REPOSITORY / "docs" / link).exists()]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_stands_where_make_mutate_looks_for_it(guard: Guard) -> None:
    assert source_problem(guard) is None
