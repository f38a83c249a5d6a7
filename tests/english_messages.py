"""The messages of errors and warnings, and the lines of the command line, as texts with gaps (english_texts.py)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import qwartet.errors
from tests.english_texts import GAP, Module, Scope, Text, arguments, modules, variants

# Rooms whose errors and warnings reach the command line. The others: `compat` is a Python interface, `openai_api` and
# `demo` answer programs, which read English whatever the locale of the server.
ROOMS = (
    "bench", "checkpoint", "cli", "client", "convert", "engine", "files", "hub", "kernels", "layers", "llm", "models",
    "planning", "quant_format", "quantize", "server", "tokenizer",
)  # fmt: skip
_OWN = {
    name
    for name, kind in vars(qwartet.errors).items()
    if isinstance(kind, type) and issubclass(kind, Exception | Warning)
}
_AT_A_PATH = {"CheckpointError", "VocabularyError"}
_PRINTS = {"print", "say", "complain", "one_line", "error_line", "translate"}
_WORD = re.compile(r"[A-Za-z]{2,}")


def is_prose(text: str) -> bool:
    """Whether there is something to translate: two words, not all of them gaps."""
    return " " in text.strip() and _WORD.search(text.replace(GAP, "")) is not None


def error_texts(room: str) -> Iterator[Text]:
    """What the errors and warnings that a room makes say."""
    for module in modules(room):
        local = {node.name for node in module.nodes if isinstance(node, ast.ClassDef) and "Error" in node.name}
        for written, calls in module.calls.items():
            name = written.rpartition(".")[2]
            for call in calls if name in _OWN | local | {"warn"} else ():
                for scope in _scopes(module, call):
                    for text in filter(is_prose, _said(name, call, scope)):
                        yield Text(text, module.path, call.lineno)


def _scopes(module: Module, node: ast.AST) -> Iterator[Scope]:
    """The scope that a node stands in, once for each call of its function in the module."""
    function = module.function_of.get(node)
    names = () if function is None else (function.name, f"self.{function.name}")
    calls = [call for name in names for call in module.calls.get(name, ())]
    for call in calls:
        assert function is not None
        caller = Scope(module, module.function_of.get(call))
        yield Scope(module, function, arguments(call, function, caller))
    if not calls:
        yield Scope(module, function)


def _said(name: str, call: ast.Call, scope: Scope) -> Iterator[str]:
    given = {one.arg: one.value for one in call.keywords}
    if name not in _AT_A_PATH:
        yield from variants(call.args[0], scope) if call.args else ()
        return
    reason = call.args[1] if len(call.args) > 1 else given.get("reason")
    places = [part for key, part in (("tensor", f"{GAP}: "), ("line", f"line {GAP}: ")) if key in given]
    hints = variants(given["hint"], scope) if "hint" in given else [""]
    for text in variants(reason, scope):
        for hint in hints:
            yield f"{GAP}: {''.join(places)}{text}" + (f"; {hint}" if hint else "")


def printed_texts(room: str = "cli") -> Iterator[Text]:
    """Every sentence that a room puts together, but for those of errors, of docstrings and of help."""
    for module in modules(room):
        passed_over = set(_others(module))
        for node in module.nodes:
            if node in passed_over or not isinstance(node, ast.expr):
                continue
            is_text = isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            )
            if is_text or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
                passed_over.update(ast.walk(node))
                for text in variants(node, Scope(module, module.function_of.get(node))):
                    yield from (Text(line, module.path, node.lineno) for line in text.splitlines() if is_prose(line))


def _others(module: Module) -> Iterator[ast.AST]:
    """Nodes of texts that are not printed, or are parts of others."""
    errors = [call for name in _OWN for call in module.calls.get(name, ())]
    makers = {module.function_of[one].name for one in errors if one in module.function_of}  # what they get is said
    for node in module.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in _OWN or name in ("Option", "Argument", "count_option", "bytes_option", "Typer", "warn"):
                yield from ast.walk(node)
            elif name in makers:
                yield from (inner for one in (*node.args, *node.keywords) for inner in ast.walk(one))
        elif isinstance(node, ast.Assert):
            yield from ast.walk(node)
        elif isinstance(node, ast.AnnAssign):
            yield from ast.walk(node.annotation)
        elif isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            yield from ast.walk(node.format_spec)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if _is_part(node.targets[0].id, module, node):
                yield from ast.walk(node.value)
        elif isinstance(node, ast.arg) and node.annotation is not None:
            yield from ast.walk(node.annotation)


def _is_part(name: str, module: Module, node: ast.AST) -> bool:
    """Whether a variable is put into other texts of its function, or of the module."""
    within = module.function_of.get(node, module.tree)
    texts = (one for one in ast.walk(within) if isinstance(one, ast.JoinedStr | ast.BinOp))
    return any(isinstance(one, ast.Name) and one.id == name for text in texts for one in ast.walk(text))
