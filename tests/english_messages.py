"""The messages of errors and warnings, and the lines of the command line, as texts with gaps (english_texts.py)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import qwartet.errors
from tests.english_texts import GAP, PACKAGE, SHOWN_ALONE, Module, Scope, Text, arguments, modules, variants

# Rooms whose errors and warnings reach the command line. The others: `compat` and `hf` are Python interfaces,
# `openai_api` and `demo` answer programs, which read English whatever the locale of the server.
ROOMS = (
    "bench", "checkpoint", "cli", "client", "convert", "engine", "evaluate", "files", "finetune", "hub", "kernels",
    "layers", "llm", "models", "planning", "quant_format", "quantize", "sandbox", "server", "tokenizer",
)  # fmt: skip
# Files in these rooms whose errors no user of the command line meets, and why.
UNSEEN = {
    "bench/bar_chart.py": "charts of the documents, from results that are checked before",
    "bench/size_table.py": "tables of the documents, which contributors make",
    "engine/constrain.py": "of requests with a structure: they come over HTTP and from Python, and are answered there",
    "engine/structure.py": "the same",
    "engine/structure_limits.py": "the same",
    "engine/stop_words.py": "the argument stop_words_ids of Python",
    "evaluate/statistics.py": "of empty runs, which are refused before",
    "hub/location.py": "arguments of from_pretrained, in Python",
    "hub/manifest.py": "caught: a record that cannot be read counts as none",
    "layers/lora.py": "training is a Python interface",
    "layers/parallel.py": "several GPUs are a Python interface",
    "quant_format/argument.py": "the argument quantization_config of Python",
    "tokenizer/chat_template.py": "the argument conversation of Python",
    "tokenizer/history.py": "the argument history= of Python; a chat keeps its own turns",
    "tokenizer/react.py": "tools come over HTTP and from Python",
}
_OWN = {
    name
    for name, kind in vars(qwartet.errors).items()
    if isinstance(kind, type) and issubclass(kind, Exception | Warning)
}
# What says why another one is raised: "cannot be joined (its parts take the inputs in different orders)".
_REASONS = {"ValueError", "TryAgain", "TooManyRedirects"}
_AT_A_PATH = {"CheckpointError", "DataError", "VocabularyError"}
_ENGLISH_PAGES = {"reference.py"}  # it writes docs/cli.md
_WORD = re.compile(r"[A-Za-z]{2,}")


def is_prose(text: str) -> bool:
    """Whether there is something to translate: two words, not all of them gaps."""
    return " " in text.strip() and _WORD.search(text.replace(GAP, "")) is not None


def error_texts(room: str) -> Iterator[Text]:
    """What the errors and warnings that a room makes say."""
    for module in modules(room):
        if module.path.relative_to(PACKAGE).as_posix() in UNSEEN:
            continue
        local = {node.name for node in module.nodes if isinstance(node, ast.ClassDef) and "Error" in node.name}
        for written, calls in module.calls.items():
            name = written.rpartition(".")[2]
            for call in calls if name in _OWN | _REASONS | local | {"warn"} else ():
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
    if name == "DataError" and "line" in given:
        places = [f"{GAP}, line {GAP}: "]
    else:
        places.insert(0, f"{GAP}: ")
    for text in variants(reason, scope):
        for hint in hints:
            yield f"{''.join(places)}{text}" + (f"; {hint}" if hint else "")


def printed_texts(room: str = "cli") -> Iterator[Text]:
    """Every sentence that a room puts together, but for those of errors, of docstrings and of help."""
    for module in modules(room):
        if module.path.name in _ENGLISH_PAGES:
            continue
        passed_over = set(_others(module))
        for node in module.nodes:
            if node in passed_over or not isinstance(node, ast.expr):
                continue
            is_text = isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            )
            is_filled = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".format_map")
            if is_text or is_filled or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
                passed_over.update(_parts(node))
                for text in variants(node, Scope(module, module.function_of.get(node))):
                    yield from (Text(line, module.path, node.lineno) for line in text.splitlines() if is_prose(line))


def logged_texts(room: str = "bench") -> Iterator[Text]:
    """What a room says about its progress to the `log` that it is given."""
    for module in modules(room):
        for call in (*module.calls.get("log", ()), *module.calls.get("self._log", ())):
            for text in variants(call.args[0], Scope(module, module.function_of.get(call))):
                if is_prose(text):
                    yield Text(text, module.path, call.lineno)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """A text and the parts of it, but for what is translated before it becomes a part."""
    yield node
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SHOWN_ALONE):
        for part in ast.iter_child_nodes(node):
            yield from _parts(part)


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
                yield from _parts(node.value)
        elif isinstance(node, ast.arg) and node.annotation is not None:
            yield from ast.walk(node.annotation)


def _is_part(name: str, module: Module, node: ast.AST) -> bool:
    """Whether a variable is put into other texts of its function, or of the module."""
    within = module.function_of.get(node, module.tree)
    texts = (one for one in ast.walk(within) if isinstance(one, ast.JoinedStr | ast.BinOp))
    return any(isinstance(one, ast.Name) and one.id == name for text in texts for one in _parts(text))
