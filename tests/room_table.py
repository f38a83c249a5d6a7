"""docs/rooms.md: the purpose of each file of the package, from the first sentence of its docstring or opening comment.

python -m tests.room_table        regenerates it (make docs)
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.golden_data import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "rooms.md"
PACKAGE = REPOSITORY / "qwartet"
_SUFFIXES = (".py", ".h", ".js", ".css")  # a .cpp file is described by its header
_COMMENT = re.compile(r"(?://|/\*)\s*(.*?)\s*(?:\*/)?$")
HEAD = """# What each file is for

Made from the sources by `make docs`: the first sentence of every docstring, or opening comment.
[architecture.md](architecture.md) says how the rooms depend on each other.
"""


def purpose(path: Path) -> str:
    """The first sentence of a file about itself; empty if there is none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = ""
        for line in text.splitlines():
            if (match := _COMMENT.match(line)) is None:
                break
            said += match[1] + "\n"
    paragraph = " ".join(said.split("\n\n")[0].split())
    return (re.match(r".*?[.?](?= |$)", paragraph) or re.match(r".*", paragraph))[0].rstrip(":")  # type: ignore[index]


def folders() -> Iterator[tuple[Path, list[Path]]]:
    """Every folder of the package with its described files, without the folder's own description."""
    for folder in sorted([PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]):
        files = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES]
        if files and folder.name != "__pycache__":
            yield folder, [path for path in files if path.name != "__init__.py"]


def table() -> str:
    """The whole document."""
    parts = [HEAD]
    for folder, files in folders():
        title = folder.relative_to(REPOSITORY)
        init = folder / "__init__.py"
        about = f"\n{purpose(init)}\n" if init.is_file() else ""
        rows = "\n".join(f"| `{path.name}` | {purpose(path).replace('|', chr(92) + '|')} |" for path in files)
        parts.append(f"\n## `{title}/`\n{about}" + (f"\n| file | purpose |\n|---|---|\n{rows}\n" if rows else ""))
    return "".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(table(), encoding="utf-8")
