"""The values of a template and what can be done with them: items, attributes, iteration, text, arithmetic.

A value is None, a bool, a number, a text, a list, a tuple, a dict, a range, or one of the classes here. Attributes are
those named here and the keys of dicts. There is no way from a value to a Python attribute, so no sandbox has to guard
one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qwartet.tokenizer.templates.budget import MAX_INT_BITS, Budget
from qwartet.tokenizer.templates.failure import TemplateFailure
from qwartet.tokenizer.templates.text_methods import TEXT_METHODS
from qwartet.tokenizer.templates.traced import is_literal, joined, piece, repeated


class Undefined:
    """A name, key or attribute that does not exist: empty text, false, nothing to iterate over."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Undefined)

    def __hash__(self) -> int:
        return hash(Undefined)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "Undefined"


class Namespace:
    """The result of namespace(): attributes that can be set from inside a loop."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes


class Lazy:
    """Items that can be iterated over once, and are true even if there are none: what filters like `map` give."""

    def __init__(self, items: list[Any]) -> None:
        self._items: list[Any] | None = items

    def take(self) -> list[Any]:
        """The items, the first time."""
        items, self._items = self._items or [], None
        return items


@dataclass
class Function:
    """A function that a template may call."""

    name: str
    function: Callable[..., Any]


@dataclass
class Loop:
    """The variable `loop` of a for statement."""

    items: list[Any]
    depth0: int = 0
    recurse: Callable[[Any, int], str] | None = None
    index0: int = -1
    changes: list[Any] = field(default_factory=list)

    def attribute(self, name: str, budget: Budget) -> Any:
        """The value of loop.NAME."""
        index, length = self.index0, len(self.items)
        if name == "previtem":
            return self.items[index - 1] if index else Undefined("there is no previous item")
        if name == "nextitem":
            return self.items[index + 1] if index + 1 < length else Undefined("there is no next item")
        if name == "cycle":
            return Function("loop.cycle", lambda *args: args[index % len(args)])
        if name == "changed":
            return Function("loop.changed", lambda *args: self._changed(args, budget))
        plain = {
            "index0": index,
            "index": index + 1,
            "revindex0": length - index - 1,
            "revindex": length - index,
            "first": index == 0,
            "last": index + 1 == length,
            "length": length,
            "depth0": self.depth0,
            "depth": self.depth0 + 1,
        }
        return plain.get(name, Undefined(f"loop.{name} is undefined"))

    def _changed(self, args: tuple[Any, ...], budget: Budget) -> bool:
        budget.measure(args)
        if self.changes == [args]:
            return False
        self.changes = [args]
        return True


class Values:
    """Operations on values, within a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    # Parts of a value

    def attribute(self, value: Any, name: str) -> Any:
        """value.NAME: a method of a text, a dict or a list, else the item of that name."""
        self.check_name(name)
        if isinstance(value, Undefined):
            raise TemplateFailure(value.what)
        if isinstance(value, str):
            return self._method_of_text(value, name)
        if isinstance(value, dict):
            if name in _DICT_METHODS:
                return Function(name, lambda *args: _DICT_METHODS[name](self, value, *args))
            if name not in value and hasattr(dict, name):
                raise TemplateFailure(f"the method {name} of a mapping is not available")
            return value.get(name, Undefined(f"there is no attribute {name!r:.60}"))
        if isinstance(value, list | tuple) and hasattr(list, name):
            raise TemplateFailure(f"the method {name} of a list is not available")
        if isinstance(value, Namespace):
            return value.attributes.get(name, Undefined(f"the namespace has no {name!r:.60}"))
        if isinstance(value, Loop):
            return value.attribute(name, self.budget)
        return Undefined(f"there is no attribute {name!r:.60} of {kind_of(value)}")

    def item(self, value: Any, key: Any) -> Any:
        """value[KEY]."""
        if isinstance(value, Undefined):
            raise TemplateFailure(value.what)
        if isinstance(value, dict):
            self.budget.measure(key)
            if key in value:
                return value[key]
        elif isinstance(value, str | list | tuple | range) and isinstance(key, int):
            if not -len(value) <= key < len(value):
                return Undefined(f"there is no element {key!s:.20}")
            return piece(value, key, key + 1 or None) if isinstance(value, str) else value[key]
        if isinstance(key, str):
            return self.attribute(value, str(key))
        return Undefined(f"{kind_of(value)} has no element {key!r:.40}")

    def part(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """value[START:STOP:STEP]."""
        if not isinstance(value, str | list | tuple):
            raise TemplateFailure(value.what if isinstance(value, Undefined) else f"{kind_of(value)} has no parts")
        length = len(range(len(value))[start:stop:step])
        if isinstance(value, str):
            self.budget.make(length)
            return piece(value, start, stop, step)
        self.budget.hold(length)
        return value[start:stop:step]

    def items_of(self, value: Any) -> list[Any]:
        """The items that a for statement goes through."""
        if isinstance(value, Undefined):
            return []
        if isinstance(value, Lazy):
            return value.take()
        if isinstance(value, str):
            self.budget.make(len(value), len(value))
            return [piece(value, place, place + 1) for place in range(len(value))]
        if not isinstance(value, list | tuple | dict | range):
            raise TemplateFailure(f"{kind_of(value)} cannot be iterated over")
        self.budget.hold(len(value), are_new_numbers=isinstance(value, range))
        return list(value)

    def _method_of_text(self, text: str, name: str) -> Any:
        method = TEXT_METHODS.get(name)
        if method is not None:
            return Function(name, lambda *args, **named: method(self.budget, text, *args, **named))
        if hasattr(str, name):
            raise TemplateFailure(f"the method {name} of a text is not available")
        return Undefined(f"there is no attribute {name!r:.60} of a text")

    @staticmethod
    def check_name(name: Any) -> None:
        """Refuses the names of Python's internals."""
        if isinstance(name, str) and name.startswith("_"):
            raise TemplateFailure(f"it reads the attribute {name!r:.60}; names with an underscore are not available")

    # Text

    def text(self, value: Any) -> str:
        """A value as it is written into the prompt."""
        if isinstance(value, str):
            return value
        if isinstance(value, Undefined):
            return ""
        if value is None or isinstance(value, bool | int | float):
            return str(value)
        if not isinstance(value, list | tuple | dict | range):
            raise TemplateFailure(f"{kind_of(value)} cannot be written")
        self.budget.make(2 * self.budget.measure(value))
        return str(value)

    def concatenated(self, values: list[Any]) -> str:
        """Values as one text."""
        texts = [self.text(value) for value in values]
        self.budget.make(sum(map(len, texts)))
        return joined(texts)

    # Comparisons

    def compare(self, name: str, left: Any, right: Any) -> bool:
        """The result of ==, !=, <, <=, >, >=, in or not in, by its name in jinja2."""
        if name in ("in", "notin"):
            return self.contains(right, left) is (name == "in")
        self.budget.measure(left)
        self.budget.measure(right)
        if name not in ("eq", "ne"):
            self._check_defined(left, right)
        return bool(_COMPARISONS[name](left, right))

    def contains(self, container: Any, value: Any) -> bool:
        """Whether a value is in another one."""
        if isinstance(container, str):
            if not isinstance(value, str):
                raise TemplateFailure(f"{kind_of(value)} cannot be in a text")
            self.budget.search(container, value)
            return value in container
        self.budget.measure(value)
        if isinstance(container, dict):
            return value in container
        items = self.items_of(container)
        self.budget.measure(items)
        return value in items

    def _check_defined(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, Undefined):
                raise TemplateFailure(value.what)

    # Arithmetic

    def calculate(self, sign: str, left: Any, right: Any) -> Any:
        """The result of + - * / // % or **."""
        self._check_defined(left, right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            return self._number(sign, left, right)
        if sign == "+" and isinstance(left, str) and isinstance(right, str):
            self.budget.make(len(left) + len(right))
            return joined((left, right))
        for kind in (list, tuple):
            if sign == "+" and isinstance(left, kind) and isinstance(right, kind):
                self.budget.hold(len(left) + len(right))
                return kind((*left, *right))
        if sign == "*":
            counted, count = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(counted, str | list | tuple) and isinstance(count, int):
                return self._repeated(counted, max(0, count))
        raise TemplateFailure(f"{sign} does not work with {kind_of(left)} and {kind_of(right)}")

    def _repeated(self, value: Any, count: int) -> Any:
        if isinstance(value, str):
            self.budget.make(len(value) * count)
            return repeated(value, count)
        self.budget.hold(len(value) * count)
        return value * count

    @staticmethod
    def _number(sign: str, left: float, right: float) -> float:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length(), right.bit_length()
            size = bits[0] * abs(right) if sign == "**" and bits[1] < 32 else sum(bits)
            if size > MAX_INT_BITS or (sign == "**" and bits[1] >= 32):
                raise TemplateFailure("a number has too many digits")
        result = _ARITHMETIC[sign](left, right)
        if not isinstance(result, int | float):
            raise TemplateFailure(f"{sign} has no real result")
        return result

    def signed(self, sign: str, value: Any) -> Any:
        """The result of a sign before a value."""
        self._check_defined(value)
        if not isinstance(value, int | float):
            raise TemplateFailure(f"{sign} does not work with {kind_of(value)}")
        return -value if sign == "-" else +value

    # Methods of dicts

    def _get(self, mapping: dict[Any, Any], key: Any, default: Any = None) -> Any:
        self.budget.measure(key)
        return mapping.get(key, default)

    def _keys(self, mapping: dict[Any, Any]) -> list[Any]:
        self.budget.hold(len(mapping))
        return list(mapping)

    def _values(self, mapping: dict[Any, Any]) -> list[Any]:
        self.budget.hold(len(mapping))
        return list(mapping.values())

    def pairs(self, mapping: dict[Any, Any]) -> list[Any]:
        """The items of a dict."""
        self.budget.make(2 * len(mapping), len(mapping))
        return list(mapping.items())


_DICT_METHODS: dict[str, Callable[..., Any]] = {
    "get": Values._get,
    "keys": Values._keys,
    "values": Values._values,
    "items": Values.pairs,
    "copy": lambda values, mapping: dict(values.pairs(mapping)),
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lteq": operator.le, "gt": operator.gt,
    "gteq": operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow,
}  # fmt: skip
_KINDS = ((bool, "a truth value"), (int | float, "a number"), (str, "a text"), (dict, "a mapping"), (Lazy, "a list"))


def kind_of(value: Any) -> str:
    """What a value is, in an error."""
    if value is None:
        return "none"
    found = next((name for kind, name in _KINDS if isinstance(value, kind)), None)
    return found or ("a list" if isinstance(value, list | tuple | range) else "a function")


def is_from_template(value: Any) -> bool:
    """Whether a value is made of nothing but texts that stand in the template."""
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        return bool(value) and all(map(is_from_template, value))
    return isinstance(value, str) and is_literal(value)
