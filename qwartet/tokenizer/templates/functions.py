"""The functions that every template may call, as transformers provides them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from qwartet.tokenizer.templates.budget import MAX_RANGE
from qwartet.tokenizer.templates.failure import Rejection, TemplateFailure
from qwartet.tokenizer.templates.traced import is_literal, literal
from qwartet.tokenizer.templates.values import Namespace, Values

_DATE_FORMAT = re.compile(r"(?:[^%]|%-?[A-Za-z%]){0,100}", re.ASCII | re.DOTALL)  # no widths, which C would fill


def range_(values: Values, *ends: int) -> range:
    """range(START, STOP, STEP), of MAX_RANGE numbers at most."""
    numbers = range(*ends)
    try:
        too_many = len(numbers) > MAX_RANGE
    except OverflowError:
        too_many = True
    if too_many:
        raise TemplateFailure(f"range has more than {MAX_RANGE} numbers")
    return numbers


def namespace(values: Values, *args: Any, **named: Any) -> Namespace:
    """A namespace with these attributes."""
    attributes = dict_(values, *args, **named)
    for name in attributes:
        values.check_name(name)
    return Namespace(attributes)


def dict_(values: Values, *args: Any, **named: Any) -> dict[Any, Any]:
    """A dict of a dict, or of pairs, and of named values."""
    for given in args:
        values.budget.make(values.budget.measure(given))
    return dict(*args, **named)


def raise_exception(values: Values, message: Any) -> None:
    """Ends the rendering, because the template does not take the conversation."""
    raise Rejection(values.text(message))


def strftime_now(values: Values, pattern: str) -> str:
    """The date and time."""
    if not isinstance(pattern, str) or not _DATE_FORMAT.fullmatch(pattern):
        raise TemplateFailure(f"the date format {pattern!r:.60} is not available")
    values.budget.make(200)
    text = datetime.now().strftime(pattern)
    return literal(text) if is_literal(pattern) else text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "range": range_,
    "namespace": namespace,
    "dict": dict_,
    "raise_exception": raise_exception,
    "strftime_now": strftime_now,
}
"""Functions by name; each takes the operations on values first."""
