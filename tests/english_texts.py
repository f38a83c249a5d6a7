"""What English can the command line print? Read off the commands and, with `ast`, off the sources.

A text has `{}` where a value is put in at run time. Choices are followed (`"a" if x else "b"`, `y or "none"`, names,
functions that return text), so that one place may give several texts. What cannot be followed is a gap.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from qwartet.cli.main import command_tree
from tests.golden_data import REPOSITORY

PACKAGE = REPOSITORY / "qwartet"
GAP = "{}"
_MAX_VARIANTS = 24
_MAX_CALLS = 3  # functions followed into functions
_UNCHANGED = {"strip", "rstrip", "lstrip"}  # of a text, for what it says

Expr = ast.expr
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Text:
    """One text, and the file and line that it is written at."""

    text: str
    path: Path
    line: int

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(REPOSITORY)}:{self.line}"

    @property
    def room(self) -> str:
        parts = self.path.relative_to(PACKAGE).parts
        return parts[0].removesuffix(".py")


@cache
def help_texts() -> dict[str, str]:
    """Each paragraph and each option's help of the visible commands, and the first command that has it."""
    found: dict[str, str] = {}

    def walk(command: Any, path: str) -> None:
        if command.hidden:
            return
        texts = [" ".join(text.split()) for text in inspect.cleandoc(command.help or "").split("\n\n")]
        for parameter in command.params:
            default = parameter.show_default
            texts += [parameter.help or "", default if isinstance(default, str) and " " in default else ""]
        for text in filter(None, texts):
            found.setdefault(text, path)
        for name, below in getattr(command, "commands", {}).items():
            walk(below, f"{path} {name}")

    walk(command_tree(), "qwartet")
    return found


class Module:
    """One source file: its functions and constants, and where its names come from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions: dict[str, Function] = {}
        self.constants: dict[str, Expr] = {}
        self.imports: dict[str, tuple[str, str]] = {}  # name -> module, name there
        self.function_of: dict[ast.AST, Function] = {}
        self.nodes = list(ast.walk(self.tree))  # an outer one comes before those in it
        for node in self.nodes:
            function = node if isinstance(node, Function) else self.function_of.get(node)
            if function is not None:
                self.function_of.update(dict.fromkeys(ast.iter_child_nodes(node), function))
        for node in self.nodes:
            if isinstance(node, Function):
                self.functions.setdefault(node.name, node)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qwartet"):
                self.imports |= {one.asname or one.name: (node.module or "", one.name) for one in node.names}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self.constants[node.target.id] = node.value

    @cached_property
    def calls(self) -> dict[str, list[ast.Call]]:
        """All calls, by how the function is written."""
        found: dict[str, list[ast.Call]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Call):
                found.setdefault(ast.unparse(node.func), []).append(node)
        return found

    def imported(self, name: str) -> tuple[Module, str] | None:
        """The module that defines an imported name."""
        if name not in self.imports:
            return None
        module, there = self.imports[name]
        path = REPOSITORY / (module.replace(".", "/") + ".py")
        return (module_at(path), there) if path.is_file() else None


@cache
def module_at(path: Path) -> Module:
    return Module(path)


def modules(room: str) -> Iterator[Module]:
    """The source files of a room, or the one of that name."""
    folder = PACKAGE / room
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
        yield module_at(path)


@dataclass(frozen=True)
class Scope:
    """Where an expression stands: what its names mean."""

    module: Module
    function: Function | None = None
    values: dict[str, list[str]] = field(default_factory=dict)  # of parameters
    seen: tuple[str, ...] = ()  # names and functions being followed

    def inside(self, name: str) -> Scope:
        return Scope(self.module, self.function, self.values, (*self.seen, name))


def variants(node: Expr | None, scope: Scope) -> list[str]:
    """The texts that an expression can be."""
    found = list(dict.fromkeys(_variants(node, scope)))
    return found if len(found) <= _MAX_VARIANTS else [GAP]


def _variants(node: Expr | None, scope: Scope) -> Iterable[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return [str(number)]
        case ast.JoinedStr(values=parts):
            return _joined([variants(part, scope) for part in parts])
        case ast.FormattedValue(value=value, conversion=-1):
            return variants(value, scope)
        case ast.BinOp(left=left, op=ast.Add(), right=right) if not _is_number(left) and not _is_number(right):
            return _joined([variants(left, scope), variants(right, scope)])
        case ast.IfExp(body=body, orelse=other):
            return [*variants(body, scope), *variants(other, scope)]
        case ast.BoolOp(op=ast.Or(), values=values):
            return [text for value in values for text in variants(value, scope)]
        case ast.Subscript(value=ast.Dict(values=values)):
            return [text for value in values for text in variants(value, scope)]
        case ast.Name(id=name):
            return _named(name, scope)
        case ast.Call():
            return _called(node, scope)
    return [GAP]


def _is_number(node: Expr) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)


def _joined(parts: list[list[str]]) -> list[str]:
    count = 1
    for one in parts:
        count *= len(one)
    if count > _MAX_VARIANTS:  # what varies least stays
        longest = max(range(len(parts)), key=lambda number: len(parts[number]))
        return _joined([[GAP] if number == longest else one for number, one in enumerate(parts)])
    return [re.sub(r"(\{\})+", GAP, "".join(texts)) for texts in itertools.product(*parts)]


def _named(name: str, scope: Scope) -> Iterable[str]:
    if name in scope.values:
        return scope.values[name]
    if name in scope.seen:
        return [GAP]
    inner = scope.inside(name)
    if scope.function is not None and (local := _assigned(name, scope.function)):
        added = [["", *variants(node, inner)] for kind, node in local if kind == "+="]
        return _joined([[text for kind, node in local if kind == "=" for text in variants(node, inner)], *added])
    if name in scope.module.constants:
        return variants(scope.module.constants[name], Scope(scope.module, None, {}, inner.seen))
    if (source := scope.module.imported(name)) is not None and source[1] in source[0].constants:
        return variants(source[0].constants[source[1]], Scope(source[0], None, {}, inner.seen))
    return [GAP]


@cache
def _assignments(function: Function) -> dict[str, list[tuple[str, Expr | None]]]:
    """What the names of a function are set to: (sign, value); None for what cannot be followed."""
    found: dict[str, list[tuple[str, Expr | None]]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and isinstance(node.op, ast.Add):
            found.setdefault(node.target.id, []).append(("+=", node.value))
            continue
        pairs: list[tuple[Expr, Expr | None]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.For | ast.comprehension):
            pairs = [(node.target, None)]
        for target, value in pairs:
            if isinstance(target, ast.Tuple):
                whole = isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)
                values = value.elts if isinstance(value, ast.Tuple) and whole else [None] * len(target.elts)
                pairs += zip(target.elts, values, strict=True)
            elif isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(("=", value))
    return found


def _assigned(name: str, function: Function) -> list[tuple[str, Expr | None]]:
    found = _assignments(function).get(name, [])
    return found if any(sign == "=" for sign, _ in found) else []


def _called(call: ast.Call, scope: Scope) -> Iterable[str]:
    if isinstance(call.func, ast.Attribute):
        of, name = call.func.value, call.func.attr
        if name in ("format_map", "format"):
            return [re.sub(r"\{\w*(:[^{}]*)?\}", GAP, text) for text in variants(of, scope)]
        if name in _UNCHANGED:
            return variants(of, scope)
        if name == "get" and isinstance(of, ast.Dict):
            return [text for value in (*of.values, *call.args[1:]) for text in variants(value, scope)]
    found = callee(call, scope.module)
    if found is None or len(scope.seen) > _MAX_CALLS:
        return [GAP]
    module, function = found
    is_number = function.name.startswith("format_")  # with its unit
    if (
        is_number
        or function.name in scope.seen
        or ast.unparse(function.returns or ast.Constant(None)) not in ("str", "str | None")
    ):
        return [GAP]
    inner = Scope(module, function, arguments(call, function, scope), (*scope.seen, function.name))
    own = [node for node in ast.walk(function) if module.function_of.get(node) is function]
    returns = [node.value for node in own if isinstance(node, ast.Return)]
    return [text for value in returns for text in variants(value, inner)]


def callee(call: ast.Call, module: Module) -> tuple[Module, Function] | None:
    """The function of the package that a call is of, where its name says so."""
    match call.func:
        case ast.Name(id=name) if name in module.functions:
            return module, module.functions[name]
        case ast.Name(id=name) if (source := module.imported(name)) is not None:
            there, own_name = source
            return (there, there.functions[own_name]) if own_name in there.functions else None
        case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in module.functions:
            return module, module.functions[name]
    return None


def arguments(call: ast.Call, function: Function, scope: Scope) -> dict[str, list[str]]:
    """The texts of a function's parameters in one call."""
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] == ["self"]:
        names = names[1:]
    values = {name: [GAP] for name in (*names, *(one.arg for one in function.args.kwonlyargs))}
    defaults = zip(names[::-1], function.args.defaults[::-1], strict=False)
    keywords = zip((one.arg for one in function.args.kwonlyargs), function.args.kw_defaults, strict=True)
    for name, default in (*defaults, *keywords):
        values[name] = variants(default, scope) if default is not None else [GAP]
    values |= {name: variants(value, scope) for name, value in zip(names, call.args, strict=False)}
    return values | {one.arg: variants(one.value, scope) for one in call.keywords if one.arg is not None}
