"""Are the files that `make dist` built fit to be published? `python -m tests.wheels DIR` checks them; see the Makefile.

The Linux wheel has a manylinux tag and the kernels, the pure wheel and the source archive have no binaries, every link
of the long description is absolute, and all three hold the bundled model, the licence, the page and the Chinese texts.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ESSENTIAL = (
    "qwartet/demo/config.json",
    "qwartet/demo/model.safetensors",
    "qwartet/server/static/index.html",
    "qwartet/cli/language/zh/help.json",
    "LICENSE",
)
BINARIES = (".so", ".a", ".o", ".dylib", ".dll", ".pyd")
LIBRARIES = {f"qwartet/kernels/cpu/lib/libqwartet_cpu_{isa}.so" for isa in ("scalar", "avx2", "avx512")}


def wheel_problems(path: Path) -> list[str]:
    """What is wrong with a wheel."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    binaries = {name for name in names if name.endswith(BINARIES)}
    expected = LIBRARIES if "manylinux" in path.name else set()
    problems = [f"binaries are {sorted(binaries)}"] if binaries != expected else []
    if not re.search(r"-(manylinux_2_\d+_x86_64.*|any)\.whl$", path.name):
        problems.append("the tag is neither manylinux nor any")
    problems += [f"a relative link: {link}" for link in re.findall(r"\]\((?!https?:|#)[^)]*\)", metadata)]
    return problems + _missing(names)


def archive_problems(path: Path) -> list[str]:
    """What is wrong with a source archive."""
    with tarfile.open(path) as archive:
        names = archive.getnames()
    return [f"a binary: {name}" for name in names if name.endswith(BINARIES)] + _missing(names)


def _missing(names: list[str]) -> list[str]:
    return [f"{name} is missing" for name in ESSENTIAL if not any(found.endswith(name) for found in names)]


def main(directory: Path) -> int:
    """Prints the problems of a directory's files; the exit code is 1 if there are any."""
    wheels, archives = sorted(directory.glob("*.whl")), sorted(directory.glob("*.tar.gz"))
    problems = [f"{path.name}: {problem}" for path in wheels for problem in wheel_problems(path)]
    problems += [f"{path.name}: {problem}" for path in archives for problem in archive_problems(path)]
    if (len(wheels), len(archives)) != (2, 1):
        problems.append(f"{len(wheels)} wheels and {len(archives)} source archives; there must be 2 and 1")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
