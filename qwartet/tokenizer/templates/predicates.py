"""The tests of templates: `value is NAME`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qwartet.tokenizer.templates.failure import TemplateFailure
from qwartet.tokenizer.templates.values import Function, Lazy, Undefined, Values

_SEQUENCES = (str, list, tuple, dict, range)


def _comparing(name: str) -> Callable[[Values, Any, Any], bool]:
    return lambda values, left, right: values.compare(name, left, right)


def _divides(values: Values, number: Any, divisor: Any) -> bool:
    return bool(values.calculate("%", number, divisor) == 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _case(name: str) -> Callable[[Values, Any], bool]:
    def asked(values: Values, value: Any) -> bool:
        text = values.text(value)
        values.budget.read(len(text))
        return bool(getattr(str, name)(text))

    return asked


def _same(values: Values, value: Any, other: Any) -> bool:
    if isinstance(value, str) or isinstance(other, str):
        raise TemplateFailure("sameas does not work with texts; use ==")
    return value is other


PREDICATES: dict[str, Callable[..., bool]] = {
    "defined": lambda values, value: not isinstance(value, Undefined),
    "undefined": lambda values, value: isinstance(value, Undefined),
    "none": lambda values, value: value is None,
    "boolean": lambda values, value: isinstance(value, bool),
    "true": lambda values, value: value is True,
    "false": lambda values, value: value is False,
    "integer": lambda values, value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda values, value: isinstance(value, float),
    "number": lambda values, value: _is_number(value),
    "string": lambda values, value: isinstance(value, str),
    "mapping": lambda values, value: isinstance(value, dict),
    "sequence": lambda values, value: isinstance(value, (*_SEQUENCES, Undefined)),
    "iterable": lambda values, value: isinstance(value, (*_SEQUENCES, Lazy, Undefined)),
    "callable": lambda values, value: isinstance(value, Function),
    "sameas": _same,
    "in": lambda values, value, container: values.contains(container, value),
    "odd": lambda values, value: values.calculate("%", value, 2) == 1,
    "even": lambda values, value: values.calculate("%", value, 2) == 0,
    "divisibleby": _divides,
    "lower": _case("islower"),
    "upper": _case("isupper"),
    **dict.fromkeys(("eq", "equalto", "=="), _comparing("eq")),
    **dict.fromkeys(("ne", "!="), _comparing("ne")),
    **dict.fromkeys(("lt", "lessthan", "<"), _comparing("lt")),
    **dict.fromkeys(("le", "<="), _comparing("lteq")),
    **dict.fromkeys(("gt", "greaterthan", ">"), _comparing("gt")),
    **dict.fromkeys(("ge", ">="), _comparing("gteq")),
}
"""Tests by name; each takes the operations on values, the value, and the arguments of the test."""
