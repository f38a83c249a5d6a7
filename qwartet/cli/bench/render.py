"""`qwartet bench render`: raw figures become docs/performance.md and the READMEs' table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwartet.cli.terminal import one_line
from qwartet.errors import SettingError


def render(
    directory: Annotated[
        Path, typer.Argument(help="Root of the repository, with docs/performance/ and the READMEs.")
    ] = Path("."),
) -> None:
    """Write docs/performance.md and the READMEs' tables."""
    from qwartet.bench.render import render as render_document
    from qwartet.bench.size_table import READMES, replace_table, size_chart, size_table

    figures = directory / "docs" / "performance"
    if not figures.is_dir():
        raise SettingError(f"{figures} is not a directory; run this at the root of the repository")
    raw = json.loads((figures / "sizes" / "sizes.json").read_text(encoding="utf-8"))
    texts = {
        directory / "docs" / "performance.md": render_document(figures),
        directory / "docs" / "images" / "sizes.svg": size_chart(raw),
    }
    for name, language in READMES.items():
        readme = directory / name
        texts[readme] = replace_table(readme.read_text(encoding="utf-8"), size_table(raw, language))
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(one_line(f"{path}: written"))
