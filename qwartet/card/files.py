"""The files of a card, from its content: Markdown in two languages, the page, and the pictures of its runs."""

from __future__ import annotations

from pathlib import Path

from qwartet.card.document import FILES, NEEDLE, ROOFLINE, markdown
from qwartet.card.file import CardData
from qwartet.card.page import page
from qwartet.card.table import LANGUAGES
from qwartet.files import atomic_write

PAGE = "card.html"


def card_files(data: CardData, pictures: dict[str, bytes]) -> dict[str, bytes]:
    """The content of each file by its name; the same content gives the same bytes."""
    names = frozenset(pictures)
    texts = {language: markdown(data, names, language) for language in LANGUAGES}
    files = {FILES[language]: text.encode() for language, text in texts.items()}
    return {**files, PAGE: page(data.subject, texts, pictures).encode(), **pictures}


def pictures_of_runs(directory: Path, data: CardData) -> dict[str, bytes]:
    """The heat map of the subject's needle run and the roofline of the profile, where they were drawn.

    Pictures that lie beside the card already serve where the runs are not kept.
    """
    heat_maps = sorted((directory / "runs").glob(f"*/{NEEDLE}"))
    own = [path for path in heat_maps if path.parent.name.startswith(data.subject)]
    places = {
        NEEDLE: [*own, *heat_maps, directory / NEEDLE],
        ROOFLINE: [directory / "profile" / ROOFLINE, directory / ROOFLINE],
    }
    found = {name: next((path for path in paths if path.is_file()), None) for name, paths in places.items()}
    return {name: path.read_bytes() for name, path in found.items() if path is not None}


def write_card(directory: Path, data: CardData) -> list[Path]:
    """Writes the files into a directory and returns their paths, the page first. OSError where it cannot."""
    files = card_files(data, pictures_of_runs(directory, data))
    for name, content in files.items():
        with atomic_write(directory / name) as temporary:
            temporary.write_bytes(content)
    return [directory / name for name in sorted(files, key=lambda name: name != PAGE)]
