"""The rules of docs/architecture.md, checked on the source with `ast`: floors, cycles, sizes, names, unsafe calls."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "qwartet"

FLOORS = (
    ("inert_text",),
    ("__init__", "errors"),
    ("files",),
    ("tokenizer", "quant_format", "client", "sandbox"),
    ("kernels",),
    ("layers", "checkpoint"),
    ("models",),
    ("engine", "hub"),
    ("llm",),
    ("openai_api", "planning", "quantize", "compat", "hf"),
    ("server", "evaluate", "bench", "finetune", "convert", "cluster"),
    ("card",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF_ROOM = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MAX_ALGORITHM_LINES = 110  # where the docstring names the publication that the function transcribes
MADE = ("docs/demo_card/card.html",)  # by a command: nobody reads it as code
CODE_SUFFIXES = {".py", ".c", ".cpp", ".h", ".hpp", ".cu", ".js", ".css", ".html"}
TEXT_SUFFIXES = CODE_SUFFIXES | {".md", ".toml", ".txt", ".json", ".jsonl", ".yml", ".yaml", ".cfg", ".sh", ""}

TORCH_FREE = (
    "tokenizer/*.py",
    "engine/request.py",
    "engine/sampling_params.py",
    "engine/block_manager.py",
    "engine/scheduler.py",
)
HEAVY = ("torch", "transformers", "fastapi")
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen", "yaml.load"}


def ignored_names() -> list[str]:
    """Patterns of the file names that git ignores."""
    lines = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()
    return [".git", *(line.strip("/") for line in lines)]


@cache
def repository_files() -> tuple[Path, ...]:
    ignored = ignored_names()

    def keeps(name: str) -> bool:
        return not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)

    found = []
    for folder, folders, names in os.walk(REPOSITORY):
        folders[:] = sorted(filter(keeps, folders))
        found += [Path(folder, name) for name in sorted(names) if keeps(name)]
    return tuple(found)


def code_files() -> list[Path]:
    return [path for path in repository_files() if path.suffix in CODE_SUFFIXES and where(path) not in MADE]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def package_modules() -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imported_names(name: str, path: Path) -> Iterator[str]:
    """Dotted names of the modules that a module imports, at its top, inside functions, or through import_module.

    Without TYPE_CHECKING imports of the package's own names, which are loaded on first use.
    """
    blocks = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.If)] if name == "qwartet" else []
    typing = [node for one in blocks if ast.unparse(one.test) == "TYPE_CHECKING" for node in ast.walk(one)]
    for node in ast.walk(tree_of(path)):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, node.module] if node.module else package)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in package_modules() else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def package_imports(name: str) -> set[str]:
    return {other for other in imported_names(name, package_modules()[name]) if other.split(".")[0] == "qwartet"}


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def where(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_every_module_stands_on_a_floor() -> None:
    strays = [name for name in package_modules() if room_of(name) not in FLOOR_OF_ROOM]
    assert not strays, "name their floor in docs/architecture.md and here"


def test_the_document_draws_these_floors() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = dict(re.findall(r"^ ?(\d+)  ([a-z_, |]+?)(?:  +\S.*)?$", text, re.MULTILINE))
    rooms = {room_of(name) for name in package_modules()} - {"__init__", "__main__"}
    for number, names in drawn.items():
        floors = {FLOOR_OF_ROOM[name] for name in re.split(r"[ ,|]+", names)}
        assert len(floors) == 1 or number == "0", names
        rooms -= set(re.split(r"[ ,|]+", names))
    assert not rooms and list(drawn) == sorted(drawn, key=int, reverse=True)


def test_a_module_imports_only_its_own_room_and_the_floors_below() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in package_modules()
        for other in sorted(package_imports(name))
        if room_of(other) != room_of(name) and FLOOR_OF_ROOM[room_of(other)] >= FLOOR_OF_ROOM[room_of(name)]
    ]
    assert not wrong


def test_the_api_knows_nothing_of_http() -> None:
    api = [name for name in package_modules() if name.startswith("qwartet.openai_api")]
    wrong = [
        f"{name} imports {other}"
        for name in api
        for other in imported_names(name, package_modules()[name])
        if other.partition(".")[0] in ("starlette", "fastapi", "uvicorn", "h11")
    ]
    assert api and not wrong


def test_every_import_of_the_package_names_a_module_that_exists() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in package_modules()
        for other in sorted(package_imports(name))
        if other not in package_modules()
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(package_imports(name) & package_modules().keys()):
                visit(other, (*path, name))
            done.add(name)

    for name in package_modules():
        visit(name, ())


def test_a_package_folder_has_an_init_file_with_a_docstring() -> None:
    folders = {path.parent for path in package_modules().values()}
    missing = [where(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()]
    assert not missing
    silent = [where(path) for path in package_modules().values() if not ast.get_docstring(tree_of(path))]
    assert not silent


def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {where(path): len(path.read_text(encoding="utf-8").splitlines()) for path in code_files()}
    assert not {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES}


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_function_is_longer_than_80_lines_or_110_for_a_published_algorithm() -> None:
    too_long = []
    for path in (path for path in code_files() if path.suffix == ".py"):
        for function in functions_of(path):
            names_its_source = re.search(r"arXiv|et al\.", ast.get_docstring(function) or "")
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > (MAX_ALGORITHM_LINES if names_its_source else MAX_FUNCTION_LINES):
                too_long.append(f"{where(path)}: {function.name} has {lines} lines")
    assert not too_long


def test_no_file_has_a_name_that_says_nothing() -> None:
    names = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [where(path) for path in code_files() if path.stem in names or path.parent.name in names]


def torch_free_modules() -> list[str]:
    files = {path for pattern in TORCH_FREE for path in PACKAGE.glob(pattern)}
    return [name for name, path in package_modules().items() if path in files]


def test_the_torch_free_modules_never_name_torch() -> None:
    names = torch_free_modules()
    assert len(names) >= len(TORCH_FREE), "a pattern finds nothing"
    roots = {name: {other.split(".")[0] for other in imported_names(name, package_modules()[name])} for name in names}
    assert not [name for name in names if "torch" in roots[name]]


def heavy_modules_after(code: str) -> list[str]:
    """Which of HEAVY a fresh interpreter has loaded after this code."""
    report = f"import sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stderr.splitlines()[-1])


def test_the_probe_for_heavy_modules_sees_torch() -> None:
    assert heavy_modules_after("import torch") == ["torch"]


def test_importing_the_torch_free_modules_loads_no_torch() -> None:
    assert heavy_modules_after("\n".join(f"import {name}" for name in torch_free_modules())) == []


def test_importing_qwartet_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import qwartet; qwartet.__version__, dir(qwartet), qwartet.SamplingParams") == []


def test_the_command_line_help_loads_nothing_heavy() -> None:
    code = "import sys; from qwartet.cli.main import main; sys.argv = ['qwartet', '--help']"
    assert heavy_modules_after(f"{code}\ntry: main()\nexcept SystemExit: pass") == []


def test_every_public_name_can_be_had() -> None:
    import qwartet

    for name in qwartet.__all__:
        assert getattr(qwartet, name) is not None


def unsafe_things(name: str, path: Path) -> Iterator[str]:
    for other in imported_names(name, path):
        if other.split(".")[0] in UNSAFE_MODULES:
            yield f"{name} imports {other}"
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in UNSAFE_CALLS:
            yield f"{name} calls {called}"
        for keyword in node.keywords:
            is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            if is_true and keyword.arg in ("trust_remote_code", "allow_pickle", "shell"):
                yield f"{name} passes {keyword.arg}=True to {called}"


READER = "qwartet.convert.confined_reader"
IN_THE_SANDBOX = ("qwartet.sandbox.inside", "qwartet.sandbox.probe")
PROGRAMS_OF_THE_SANDBOX = (*IN_THE_SANDBOX, "qwartet.sandbox.launcher")


def test_the_package_runs_no_code_that_comes_with_a_checkpoint() -> None:
    modules = {name: path for name, path in package_modules().items() if name not in IN_THE_SANDBOX}
    things = [thing for name, path in modules.items() for thing in unsafe_things(name, path)]
    assert things == [f"{READER} calls torch.load"]


def test_the_programs_of_the_sandbox_import_nothing_of_the_package_and_are_not_imported() -> None:
    assert not [name for name in package_modules() if package_imports(name) & set(PROGRAMS_OF_THE_SANDBOX)]
    assert not [name for name in PROGRAMS_OF_THE_SANDBOX if package_imports(name)]


def test_the_one_reader_of_pickles_is_a_program_of_its_own_confined_and_takes_weights_alone() -> None:
    assert not [name for name in package_modules() if READER in package_imports(name)]
    calls = [node for node in ast.walk(tree_of(package_modules()[READER])) if isinstance(node, ast.Call)]
    (load,) = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert "weights_only=True" in map(ast.unparse, load.keywords)
    (confine,) = [call for call in calls if ast.unparse(call.func) == "confine"]
    assert confine.lineno < load.lineno


# Spelt in pieces, so that this file does not match itself.
MACHINE_PLACES = (
    r"/wo" r"rk/(?:main|shared|\.)",
    r"/ro" r"ot/",
    r"py" r"pi\.[a-z]",
    r"python" r"hosted\.",
    r"np" r"mjs\.",
)


def test_no_text_names_a_place_that_only_one_machine_has() -> None:
    place = re.compile("|".join(MACHINE_PLACES))
    texts = [path for path in repository_files() if path.suffix in TEXT_SUFFIXES and path.stat().st_size < 2**20]
    wrong = []
    for path in texts:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if found := place.search(line):
                wrong.append(f"{where(path)}:{number}: {found[0]}")
    assert not wrong
