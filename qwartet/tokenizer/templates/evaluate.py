"""Evaluates the syntax tree of a chat template: what jinja2 would render, step by step and within a budget.

jinja2's own way, compiling a template to Python and running that, bounds neither time nor memory, even in its sandbox:
`'x' * 10 ** 9`, nested loops and texts that double are single operations of the interpreter, which nothing can stop
but the end of the process. Nor does it know where a character came from. Here every node is a step that is counted,
every text is charged before it is made, and texts carry marks (traced.py). Differences from jinja2: an operation that
is not in this room is an error, `safe` texts are not escaped when they are joined to others, and floats, dates and
texts are never formatted by a pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from qwartet.tokenizer.templates.budget import Budget
from qwartet.tokenizer.templates.failure import TemplateFailure
from qwartet.tokenizer.templates.filters import FILTERS, Filters
from qwartet.tokenizer.templates.functions import FUNCTIONS
from qwartet.tokenizer.templates.predicates import PREDICATES
from qwartet.tokenizer.templates.traced import joined, literal
from qwartet.tokenizer.templates.values import Function, Loop, Namespace, Undefined, Values, kind_of

_ARITHMETIC = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "FloorDiv": "//", "Mod": "%", "Pow": "**"}


class Scope:
    """Names and their values; those of the enclosing scope are visible, and are not changed from inside."""

    def __init__(self, parent: Scope | None = None, names: Mapping[str, Any] | None = None) -> None:
        self._parent = parent
        self.names: dict[str, Any] = dict(names or {})

    def find(self, name: str) -> Any:
        """The value of a name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope._parent
        return Undefined(f"{name!r:.60} is undefined")


class Macro:
    """A macro of a template, or the body of a call statement."""

    def __init__(self, node: Any, name: str, scope: Scope) -> None:
        self.name, self.node, self.scope = name, node, scope
        self.parameters = [argument.name for argument in node.args]
        used = {found.name for part in node.body for found in _names_in(part)}
        self.takes_more = "varargs" in used
        self.takes_named = "kwargs" in used


def _names_in(node: Any) -> list[Any]:
    found = [node] if type(node).__name__ == "Name" else []
    return found + [name for child in node.iter_child_nodes() for name in _names_in(child)]


class Evaluation:
    """One rendering of a template."""

    def __init__(self, budget: Budget, variables: Mapping[str, Any]) -> None:
        self.budget = budget
        self.values = Values(budget)
        self.filters = Filters(self.values, self._filtered, self._tested)
        self.line = 1
        named = {name: Function(name, partial(function, self.values)) for name, function in FUNCTIONS.items()}
        self.root = Scope(None, {**named, **variables})

    def render(self, tree: Any) -> str:
        """The text of a template; TemplateFailure or Rejection, with the line in `line`."""
        out: list[str] = []
        try:
            self._execute(tree.body, self.root, out)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise TemplateFailure(f"{type(error).__name__}: {error}") from None
        except RecursionError:
            raise TemplateFailure("it is nested too deep") from None
        return joined(out)

    # Statements

    def _execute(self, nodes: Sequence[Any], scope: Scope, out: list[str]) -> str | None:
        """Runs statements; "break" or "continue" where one of them is that."""
        for node in nodes:
            self.budget.spend()
            self.line = node.lineno
            statement = _STATEMENTS.get(type(node).__name__)
            if statement is None:
                raise TemplateFailure(f"{type(node).__name__.lower()} is not available")
            if (jump := statement(self, node, scope, out)) is not None:
                return jump
        return None

    def _captured(self, nodes: Sequence[Any], scope: Scope) -> str:
        """The text that statements write."""
        out: list[str] = []
        self.budget.enter()
        self._execute(nodes, scope, out)
        self.budget.leave()
        return self._joined(out)

    def _joined(self, out: list[str]) -> str:
        self.budget.make(sum(map(len, out)), len(out))
        return joined(out)

    def _output(self, node: Any, scope: Scope, out: list[str]) -> None:
        for part in node.nodes:
            text = self.values.text(self.value(part, scope))
            self.budget.make(len(text))
            out.append(text)

    def _if(self, node: Any, scope: Scope, out: list[str]) -> str | None:
        if self.value(node.test, scope):
            return self._execute(node.body, scope, out)
        for other in node.elif_:
            if self.value(other.test, scope):
                return self._execute(other.body, scope, out)
        return self._execute(node.else_, scope, out)

    def _for(self, node: Any, scope: Scope, out: list[str]) -> None:
        self._loop(node, self.value(node.iter, scope), scope, out, 0)

    def _loop(self, node: Any, iterable: Any, scope: Scope, out: list[str], depth: int) -> None:
        items = self.values.items_of(iterable)
        if node.test is not None:
            items = [item for item in items if self._passes(node, item, scope)]

        def recurse(inner: Any, inner_depth: int) -> str:
            inner_out: list[str] = []
            self._loop(node, inner, scope, inner_out, inner_depth)
            return self._joined(inner_out)

        loop = Loop(items, depth, recurse if node.recursive else None)
        self.budget.enter()
        for loop.index0, item in enumerate(items):
            self.budget.spend()
            inner = Scope(scope, {"loop": loop})
            self._assign_to(node.target, item, inner)
            if self._execute(node.body, inner, out) == "break":
                break
        if not items:
            self._execute(node.else_, Scope(scope), out)
        self.budget.leave()

    def _passes(self, node: Any, item: Any, scope: Scope) -> bool:
        inner = Scope(scope)
        self._assign_to(node.target, item, inner)
        return bool(self.value(node.test, inner))

    def _assign(self, node: Any, scope: Scope, out: list[str]) -> None:
        self._assign_to(node.target, self.value(node.node, scope), scope)

    def _assign_block(self, node: Any, scope: Scope, out: list[str]) -> None:
        text: Any = self._captured(node.body, Scope(scope))
        self._assign_to(node.target, text if node.filter is None else self.value(node.filter, scope, text), scope)

    def _assign_to(self, target: Any, value: Any, scope: Scope) -> None:
        kind = type(target).__name__
        if kind == "Name":
            scope.names[target.name] = value
        elif kind == "NSRef":
            space = scope.find(target.name)
            if not isinstance(space, Namespace):
                raise TemplateFailure(f"{target.name!r:.60} is not a namespace, so it has no attributes to set")
            self.values.attribute(space, target.attr)  # refuses names with an underscore
            space.attributes[target.attr] = value
        else:
            parts = self.values.items_of(value)
            if len(parts) != len(target.items):
                raise TemplateFailure(f"{len(parts)} values do not fit {len(target.items)} names")
            for part, one in zip(target.items, parts, strict=True):
                self._assign_to(part, one, scope)

    def _macro(self, node: Any, scope: Scope, out: list[str]) -> None:
        scope.names[node.name] = Macro(node, node.name, scope)

    def _call_block(self, node: Any, scope: Scope, out: list[str]) -> None:
        text = self.values.text(self.value(node.call, scope, Macro(node, "caller", scope)))
        self.budget.make(len(text))
        out.append(text)

    def _filter_block(self, node: Any, scope: Scope, out: list[str]) -> None:
        text = self._captured(node.body, Scope(scope))
        out.append(self.values.text(self.value(node.filter, scope, text)))

    def _with(self, node: Any, scope: Scope, out: list[str]) -> str | None:
        inner = Scope(scope)
        for target, value in zip(node.targets, node.values, strict=True):
            self._assign_to(target, self.value(value, scope), inner)
        return self._execute(node.body, inner, out)

    # Expressions

    def value(self, node: Any, scope: Scope, given: Any = None) -> Any:
        """The value of an expression; `given` is what the innermost filter, or the call, of a block is applied to."""
        self.budget.spend()
        expression = _EXPRESSIONS.get(type(node).__name__)
        if expression is None:
            raise TemplateFailure(f"{type(node).__name__.lower()} is not available")
        return expression(self, node, scope) if given is None else expression(self, node, scope, given)

    def _const(self, node: Any, scope: Scope) -> Any:
        return literal(node.value) if isinstance(node.value, str) else node.value

    def _name(self, node: Any, scope: Scope) -> Any:
        return scope.find(node.name)

    def _attribute(self, node: Any, scope: Scope) -> Any:
        return self.values.attribute(self.value(node.node, scope), node.attr)

    def _item(self, node: Any, scope: Scope) -> Any:
        value = self.value(node.node, scope)
        if type(node.arg).__name__ != "Slice":
            return self.values.item(value, self.value(node.arg, scope))
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return self.values.part(value, *(None if end is None else self.value(end, scope) for end in ends))

    def _list(self, node: Any, scope: Scope) -> list[Any]:
        self.budget.make(len(node.items))
        return [self.value(item, scope) for item in node.items]

    def _tuple(self, node: Any, scope: Scope) -> tuple[Any, ...]:
        return tuple(self._list(node, scope))

    def _dict(self, node: Any, scope: Scope) -> dict[Any, Any]:
        self.budget.make(2 * len(node.items))
        found: dict[Any, Any] = {}
        for pair in node.items:
            key = self.value(pair.key, scope)
            self.budget.measure(key)
            found[key] = self.value(pair.value, scope)
        return found

    def _choice(self, node: Any, scope: Scope) -> Any:
        if self.value(node.test, scope):
            return self.value(node.expr1, scope)
        return Undefined("no else was given") if node.expr2 is None else self.value(node.expr2, scope)

    def _and(self, node: Any, scope: Scope) -> Any:
        return self.value(node.left, scope) and self.value(node.right, scope)

    def _or(self, node: Any, scope: Scope) -> Any:
        return self.value(node.left, scope) or self.value(node.right, scope)

    def _not(self, node: Any, scope: Scope) -> bool:
        return not self.value(node.node, scope)

    def _negative(self, node: Any, scope: Scope) -> Any:
        return self.values.signed("-", self.value(node.node, scope))

    def _positive(self, node: Any, scope: Scope) -> Any:
        return self.values.signed("+", self.value(node.node, scope))

    def _arithmetic(self, node: Any, scope: Scope) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        return self.values.calculate(_ARITHMETIC[type(node).__name__], left, right)

    def _concatenation(self, node: Any, scope: Scope) -> str:
        return self.values.concatenated([self.value(part, scope) for part in node.nodes])

    def _comparison(self, node: Any, scope: Scope) -> bool:
        left = self.value(node.expr, scope)
        for operand in node.ops:
            right = self.value(operand.expr, scope)
            if not self.values.compare(operand.op, left, right):
                return False
            left = right
        return True

    def _arguments(self, node: Any, scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        args = [self.value(argument, scope) for argument in node.args]
        named = {keyword.key: self.value(keyword.value, scope) for keyword in node.kwargs}
        if node.dyn_args is not None:
            args += self.values.items_of(self.value(node.dyn_args, scope))
        if node.dyn_kwargs is not None:
            named |= self._named(self.value(node.dyn_kwargs, scope))
        return args, named

    def _named(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise TemplateFailure(f"{kind_of(value)} cannot be named arguments")
        return {str(name): one for name, one in self.values.pairs(value)}

    def _filter(self, node: Any, scope: Scope, given: Any = None) -> Any:
        value = given if node.node is None else self.value(node.node, scope, given)
        args, named = self._arguments(node, scope)
        return self._filtered(node.name, value, args, named)

    def _filtered(self, name: str, value: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        self.budget.spend()
        function = FILTERS.get(name)
        if function is None:
            raise TemplateFailure(f"the filter {name!r:.60} is not available")
        return function(self.filters, value, *args, **named)

    def _test(self, node: Any, scope: Scope) -> bool:
        value = self.value(node.node, scope)
        args, named = self._arguments(node, scope)
        return self._tested(node.name, value, args, named)

    def _tested(self, name: str, value: Any, args: Sequence[Any], named: Mapping[str, Any]) -> bool:
        self.budget.spend()
        function = PREDICATES.get(name)
        if function is None:
            raise TemplateFailure(f"the test {name!r:.60} is not available")
        return bool(function(self.values, value, *args, **named))

    # Calls

    def _call(self, node: Any, scope: Scope, caller: Any = None) -> Any:
        function = self.value(node.node, scope)
        args, named = self._arguments(node, scope)
        line = self.line
        if caller is not None:
            named["caller"] = caller
        if isinstance(function, Undefined):
            raise TemplateFailure(function.what)
        if isinstance(function, Macro):
            result: Any = self._called(function, args, named)
        elif isinstance(function, Function):
            result = function.function(*args, **named)
        elif isinstance(function, Loop) and function.recurse is not None and len(args) == 1:
            result = function.recurse(args[0], function.depth0 + 1)
        else:
            raise TemplateFailure(f"{kind_of(function)} cannot be called")
        self.line = line
        return result

    def _called(self, macro: Macro, args: list[Any], named: dict[str, Any]) -> str:
        """The text of a macro."""
        num_known = len(macro.parameters)
        if len(args) > num_known and not macro.takes_more:
            raise TemplateFailure(f"the macro {macro.name!r:.60} takes at most {num_known} arguments, not {len(args)}")
        self.budget.enter()  # a default may call the macro itself
        scope = Scope(macro.scope, dict(zip(macro.parameters, args, strict=False)))
        scope.names["caller"] = named.pop("caller", Undefined("no caller is defined"))
        defaults = dict(zip(reversed(macro.parameters), reversed(macro.node.defaults), strict=False))
        for name in macro.parameters[len(args) :]:
            if name in named:
                scope.names[name] = named.pop(name)
            elif name in defaults:
                scope.names[name] = self.value(defaults[name], scope)
            else:
                scope.names[name] = Undefined(f"parameter {name!r:.60} was not provided")
        if named and not macro.takes_named:
            raise TemplateFailure(f"the macro {macro.name!r:.60} takes no argument {next(iter(named))!r:.60}")
        scope.names |= {"varargs": tuple(args[num_known:])} if macro.takes_more else {}
        scope.names |= {"kwargs": named} if macro.takes_named else {}
        text = self._captured(macro.node.body, scope)
        self.budget.leave()
        return text


_STATEMENTS: dict[str, Callable[[Evaluation, Any, Scope, list[str]], str | None]] = {
    "Output": Evaluation._output,
    "If": Evaluation._if,
    "For": Evaluation._for,
    "Assign": Evaluation._assign,
    "AssignBlock": Evaluation._assign_block,
    "Macro": Evaluation._macro,
    "CallBlock": Evaluation._call_block,
    "FilterBlock": Evaluation._filter_block,
    "With": Evaluation._with,
    "Scope": lambda self, node, scope, out: self._execute(node.body, Scope(scope), out),
    "Break": lambda self, node, scope, out: "break",
    "Continue": lambda self, node, scope, out: "continue",
}
_EXPRESSIONS: dict[str, Callable[..., Any]] = {
    "Const": Evaluation._const,
    "TemplateData": lambda self, node, scope: literal(node.data),
    "Name": Evaluation._name,
    "Getattr": Evaluation._attribute,
    "Getitem": Evaluation._item,
    "List": Evaluation._list,
    "Tuple": Evaluation._tuple,
    "Dict": Evaluation._dict,
    "CondExpr": Evaluation._choice,
    "And": Evaluation._and,
    "Or": Evaluation._or,
    "Not": Evaluation._not,
    "Neg": Evaluation._negative,
    "Pos": Evaluation._positive,
    **dict.fromkeys(_ARITHMETIC, Evaluation._arithmetic),
    "Concat": Evaluation._concatenation,
    "Compare": Evaluation._comparison,
    "Filter": Evaluation._filter,
    "Test": Evaluation._test,
    "Call": Evaluation._call,
}
