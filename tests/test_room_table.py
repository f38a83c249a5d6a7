"""docs/rooms.md describes the existing files, and every file describes itself."""

from __future__ import annotations

from tests.room_table import DOCUMENT, folders, purpose, table


def test_the_document_is_made_from_these_sources() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == table(), "run make docs"


def test_every_file_says_what_it_is_for() -> None:
    assert not [str(path) for _folder, files in folders() for path in files if len(purpose(path)) < 15]
