"""What runs behind the walls: a program of its own, given to Python as text, `python -c TEXT ROLE LIMITS`.

It imports nothing of Qwartet, and nothing of Qwartet imports it. Before it reads any code it takes its limits and says
"ready". The roles:

    worker    has the candidate's code and answers calls of its function; nothing that it says is trusted
    checker   has the tests and asks the worker, through Python literals alone; its verdict counts
    session   runs cells one after another, which share their names as in a notebook
    script    runs a program, whose output is this program's

Lines to the worker are calls, and its answers are `=literal` (a value), `~literal` (the items of an iterator) or
`!(type, message)` (an exception). Lines to and from a session are JSON.
"""

from __future__ import annotations

import ast
import base64
import builtins
import collections.abc
import io
import itertools
import json
import linecache
import numbers
import os
import random
import resource
import sys
import traceback
import types
import warnings
from typing import Any, cast

_MAX_ITEMS = 100_000  # that are taken from an iterator
_MAX_MESSAGE_CHARS = 300
_WORKSPACE = "/tmp/workspace"  # of a session; the cells begin in "files" below
_SILENCED = (".* is non-interactive, and thus cannot be shown", "Glyph .* missing from")  # of matplotlib
_NOT_ITERATED = (str, bytes, bytearray, list, tuple, dict, collections.abc.Set)


class Failed(BaseException):
    """The candidate's answer is none; no test catches this."""


class Channel:
    """Lines from and to the outside, on descriptors of their own: standard input is empty, what is printed is lost."""

    def __init__(self) -> None:
        self._source, self._target = os.fdopen(os.dup(0), "rb"), os.dup(1)
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.close(null)

    def receive(self) -> bytes:
        """The next line; ends the process where there is none."""
        if not (line := self._source.readline()):
            os._exit(0)
        return line

    def send(self, kind: str, text: str) -> None:
        """A line: one character that says what it is, and a text without line feeds."""
        content = (kind + text).encode("ascii", "backslashreplace").replace(b"\n", b" ") + b"\n"
        while content:
            content = content[os.write(self._target, content) :]


def short(error: BaseException) -> str:
    """What an exception says, as one short line."""
    try:
        said = str(error)[:_MAX_MESSAGE_CHARS]
        return f"{type(error).__name__}: {said}" if said else type(error).__name__
    except BaseException:  # its own __str__
        return type(error).__name__


def plain(value: Any) -> Any:
    """The value in types whose repr is a literal; equal to it as tests compare. TypeError where it has none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)  # the number itself, of a class of the candidate's too
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return complex.__complex__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, collections.abc.Set):
        return {tuple(item) if isinstance(item, list) else item for item in map(plain, value)}
    for number in (int, float) if isinstance(value, numbers.Number) else ():
        if number(value) == value:
            return number(value)
    raise TypeError(f"returned a {type(value).__name__}, which is not a plain value")


class _Numbers(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def literal(text: str) -> Any:
    """The value of a Python literal; inf and nan are such too."""
    return ast.literal_eval(_Numbers().visit(ast.parse(text.strip(), mode="eval")))


def worker(channel: Channel) -> None:
    task = json.loads(channel.receive())
    try:
        program = compile(task["source"], "candidate", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return channel.send("S", short(error))
    names: dict[str, Any] = {}
    try:
        exec(program, names)
        function = names[task["entry_point"]]
    except MemoryError as error:
        return channel.send("M", short(error))
    except BaseException as error:
        return channel.send("E", short(error))
    channel.send("R", "")
    while True:
        args, kwargs = literal(channel.receive().decode())
        try:
            value = function(*args, **kwargs)
            is_iterator = isinstance(value, collections.abc.Iterable) and not isinstance(value, _NOT_ITERATED)
            if is_iterator:
                value = list(itertools.islice(value, _MAX_ITEMS))
            answer = "~" if is_iterator else "=", ascii(plain(value))
        except BaseException as error:
            answer = "!", ascii((type(error).__name__, short(error)))
        channel.send(*answer)


def checker(channel: Channel) -> None:
    task = json.loads(channel.receive())

    def candidate(*args: Any, **kwargs: Any) -> Any:
        channel.send("C", ascii((plain(args), plain(kwargs))))
        line = channel.receive().decode("utf-8", "replace")
        try:
            answer = literal(line[1:])
        except BaseException as error:
            raise Failed(f"the answer is not a plain value ({short(error)})") from None
        if line[0] == "=":
            return answer
        if line[0] == "~" and isinstance(answer, list):
            return iter(answer)
        raise raised(answer)

    names: dict[str, Any] = {}
    try:
        exec(compile(task["prompt"], "prompt", "exec"), names)  # functions that the tests use beside the candidate
        names[task["entry_point"]] = candidate
        exec(compile(task["test"], "test", "exec"), names)
        check = names["check"]
        exec("import random; random.seed(0)", {})
    except BaseException as error:
        return channel.send("X", short(error))
    try:
        check(candidate)
    except BaseException as error:
        if not (said := getattr(error, "said_by_candidate", "")):
            return channel.send("W", short(error))
        return channel.send("M" if said.startswith("MemoryError") else "E", said)
    return channel.send("P", "")


def raised(answer: Any) -> BaseException:
    """An exception like the one that the candidate raised, as far as tests may expect it."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(one, str) for one in answer)):
        return Failed("the answer is not one")
    name, said = answer
    kind = getattr(builtins, name, None)
    is_expected = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError)
    error: Any = kind(said) if kind is not None and is_expected else Failed(said)
    error.said_by_candidate = said or name
    return cast(BaseException, error)


class _Kept(io.BufferedIOBase):
    """Keeps the first `most` bytes that are written, and lets the others go."""

    def __init__(self, most: int) -> None:
        self._most, self._content, self._is_cut = most, bytearray(), False

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        with memoryview(content) as view:
            room = self._most - len(self._content)
            self._content += view[: max(room, 0)]
            self._is_cut |= view.nbytes > room
            return view.nbytes

    def text(self) -> str:
        return self._content.decode("utf-8", "replace") + ("..." if self._is_cut else "")


def session(channel: Channel) -> None:
    setup = json.loads(channel.receive())
    os.environ.update(setup["environment"])
    sys.path += setup["packages"]
    os.makedirs(f"{_WORKSPACE}/files")
    os.chdir(f"{_WORKSPACE}/files")
    for name, content in setup["files"].items():
        with open(name, "xb") as file:
            file.write(base64.b64decode(content))
        os.chmod(name, 0o444)
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message)
    random.seed(0)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    own_id, figures = os.getpid(), itertools.count(1)
    channel.send("", json.dumps("ready"))
    for number in itertools.count(1):
        result = run_cell(json.loads(channel.receive()), f"<cell {number}>", main.__dict__, setup["most"], figures)
        if os.getpid() != own_id:  # a child that the cell has forked
            os._exit(0)
        channel.send("", json.dumps(result))


def run_cell(
    source: str, name: str, names: dict[str, Any], most: int, figures: collections.abc.Iterator[int]
) -> dict[str, Any]:
    """What a cell prints, shows and raises; each text has at most `most` characters."""
    kept = _Kept(most), _Kept(most)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(cast(Any, one), "utf-8", "backslashreplace", write_through=True) for one in kept
    )
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    value, error, files = "", "", []
    try:
        try:
            value = value_of_cell(source, name, names)[:most]
        finally:
            files = save_figures(figures)
    except BaseException as raised:
        error = traceback_of(raised)[-most:]
    texts = [one.text() for one in kept]
    return {"stdout": texts[0], "stderr": texts[1], "value": value, "error": error, "figures": files}


def value_of_cell(source: str, name: str, names: dict[str, Any]) -> str:
    """Runs a cell; the repr of the expression that it ends with, empty for None and after a semicolon."""
    tree = cast(ast.Module, compile(source, name, "exec", ast.PyCF_ONLY_AST, dont_inherit=True))
    last = tree.body[-1] if tree.body and not source.rstrip().endswith(";") else None
    if isinstance(last, ast.Expr):
        del tree.body[-1]
    exec(compile(tree, name, "exec", dont_inherit=True), names)
    if not isinstance(last, ast.Expr):
        return ""
    value = eval(compile(ast.Expression(last.value), name, "eval", dont_inherit=True), names)
    return "" if value is None else repr(value)


def save_figures(numbers_of_files: collections.abc.Iterator[int]) -> list[str]:
    """Saves and closes the figures that are open, as a notebook shows them; the names of their files."""
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is None:
        return []
    files = []
    try:
        for number in pyplot.get_fignums():
            files.append(f"{_WORKSPACE}/fig-{next(numbers_of_files):03}.png")
            pyplot.figure(number).savefig(files[-1])
    finally:
        pyplot.close("all")
    return files


def traceback_of(error: BaseException) -> str:
    """A traceback from the cell on; never empty."""
    try:
        place = error.__traceback__
        while place is not None and place.tb_frame.f_code.co_filename == "<string>":  # this program
            place = place.tb_next
        return "".join(traceback.format_exception(type(error), error, place)).strip() or type(error).__name__
    except BaseException:  # its own __str__
        return type(error).__name__


def script(channel: None) -> None:
    source = json.loads(sys.stdin.buffer.readline())
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    exec(compile(source, "<code>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    for name, bounds in json.loads(sys.argv[2]).items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), bounds)
    os.write(1, b"ready\n")
    if sys.argv[1] == "script":
        script(None)
    else:
        {"worker": worker, "checker": checker, "session": session}[sys.argv[1]](Channel())
