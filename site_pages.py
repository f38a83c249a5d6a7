"""MkDocs hook: adds pages from outside docs/ to the site, and turns links to other files into links to the repository.

Registered in mkdocs.yml; `make site` runs it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
PAGES = {
    "README.md": "index.md",
    "README.zh.md": "index.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "deploy.md",
    "examples/README.md": "examples.md",
    "kernels_lab/cpu/README.md": "kernels_lab_cpu.md",
    "kernels_lab/gpu/README.md": "kernels_lab_gpu.md",
}
"""File in the repository -> page on the site; docs/x.md becomes x.md."""

_LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)((?:#[^)]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites links for the site."""
    sources = {name: source for source, name in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = posixpath.dirname(source)

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match[2]))
        page_name = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
        if page_name and files.get_file_from_path(page_name) is not None:
            return f"{match[1]}{posixpath.relpath(page_name, posixpath.dirname(page.file.src_uri) or '.')}{match[3]}"
        if not (ROOT / target).exists():
            return match[0]  # broken: MkDocs reports it
        return f"{match[1]}{config.repo_url}/blob/main/{target}{match[3]}"

    return _LINK.sub(link, markdown)
