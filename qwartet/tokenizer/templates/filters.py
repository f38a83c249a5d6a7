"""The filters of templates: `value | NAME`. They keep the marks of texts, and are charged before they do anything."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwartet.tokenizer.templates.failure import TemplateFailure
from qwartet.tokenizer.templates.text_methods import TEXT_METHODS
from qwartet.tokenizer.templates.traced import joined, literal, piece, remarked
from qwartet.tokenizer.templates.values import Lazy, Undefined, Values, is_from_template, kind_of

_WORD = re.compile(r"\w+")
_WORD_START = re.compile(r"([-\s({\[<]+)")
MAX_INDENT = 16

Applied = Callable[[str, Any, Sequence[Any], Mapping[str, Any]], Any]
"""A filter or a test by name, applied to a value and further arguments."""


class Filters:
    """The filters, within a budget; `filtered` and `tested` apply those that are named in an argument."""

    def __init__(self, values: Values, filtered: Applied, tested: Applied) -> None:
        self.values, self.budget = values, values.budget
        self._filtered, self._tested = filtered, tested

    # Texts

    def as_text(self, value: Any) -> str:
        """The value as text."""
        return self.values.text(value)

    def trim(self, value: Any, chars: str | None = None) -> Any:
        """Without white space, or these characters, at both ends."""
        return self._by_method("strip", value, chars)

    def upper(self, value: Any) -> Any:
        """In capitals."""
        return self._by_method("upper", value)

    def lower(self, value: Any) -> Any:
        """In small letters."""
        return self._by_method("lower", value)

    def capitalize(self, value: Any) -> Any:
        """The first letter as a capital."""
        return self._by_method("capitalize", value)

    def title(self, value: Any) -> str:
        """The first letter of each word as a capital, the others small."""
        text = self.values.text(value)
        self.budget.make(4 * len(text))
        words = [word[0].upper() + word[1:].lower() for word in _WORD_START.split(str(text)) if word]
        return remarked("".join(words), text)

    def replace(self, value: Any, old: Any, new: Any, count: int | None = None) -> Any:
        """With another text in place of one."""
        texts = self.values.text(old), self.values.text(new)
        return self._by_method("replace", value, *texts, -1 if count is None else count)

    def indent(self, value: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
        """With spaces before all lines but the first one and the blank ones."""
        if isinstance(width, int):
            self.budget.make(max(0, width))
        margin = width if isinstance(width, str) else literal(" " * width)
        text = self.values.text(value)
        lines: list[str] = self._by_method("splitlines", joined((text, literal("\n"))))
        self.budget.make(len(text) + len(lines) * (len(margin) + 1), len(lines))
        kept = [joined((margin, line)) if line or blank else line for line in lines[1:]]
        whole = joined([lines[0], *kept], literal("\n"))
        return joined((margin, whole)) if first else whole

    def wordcount(self, value: Any) -> int:
        """The number of words."""
        text = self.values.text(value)
        self.budget.make(len(text), len(text) // 2)
        return len(_WORD.findall(text))

    def safe(self, value: Any) -> str:
        """The value as text: nothing is ever escaped."""
        return self.values.text(value)

    def tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """The value as JSON, which is from the template only if all of the value is."""
        width = indent if isinstance(indent, int) else len(indent or "")
        if width > MAX_INDENT or any(len(str(one)) > MAX_INDENT for one in separators or ()):
            raise TemplateFailure(f"tojson indents or separates by more than {MAX_INDENT} characters")
        size = self.budget.measure(value)
        self.budget.make(size * (6 + (40 * width if indent is not None else 0)))
        plain = {"ensure_ascii": ensure_ascii, "indent": indent, "separators": separators, "sort_keys": sort_keys}
        text = json.dumps(value, **plain)
        return literal(text) if is_from_template(value) else text

    def _by_method(self, name: str, value: Any, *args: Any) -> Any:
        return TEXT_METHODS[name](self.budget, self.values.text(value), *args)

    # Numbers

    def absolute(self, value: Any) -> Any:
        """Without its sign."""
        return self.values.signed("-", value) if isinstance(value, int | float) and value < 0 else value

    def whole(self, value: Any, default: Any = 0, base: int = 10) -> Any:
        """As a whole number, or the default."""
        self._check_defined(value)
        try:
            return int(value, base) if isinstance(value, str) else int(value)
        except (TypeError, ValueError, OverflowError):
            try:
                return int(float(value))
            except (TypeError, ValueError, OverflowError):
                return default

    def fraction(self, value: Any, default: Any = 0.0) -> Any:
        """As a number with a fraction, or the default."""
        self._check_defined(value)
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return default

    def _check_defined(self, value: Any) -> None:
        if isinstance(value, Undefined):
            raise TemplateFailure(value.what)
        self.budget.measure(value)

    def rounded(self, value: Any, precision: int = 0, method: str = "common") -> Any:
        """Rounded to so many digits: "common", "ceil" or "floor"."""
        if abs(precision) > 300 or method not in ("common", "ceil", "floor"):
            raise TemplateFailure(f"round to {precision!r:.20} digits by {method!r:.20} is not available")
        if method == "common":
            return round(value, precision)
        return getattr(math, method)(value * 10**precision) / 10**precision

    # Lists and mappings

    def length(self, value: Any) -> Any:
        """The number of characters or items."""
        if isinstance(value, Undefined):
            return 0
        if not isinstance(value, str | list | tuple | dict | range):
            raise TemplateFailure(f"{kind_of(value)} has no length")
        return len(value)

    def default(self, value: Any, default: Any = "", boolean: bool = False) -> Any:
        """The value, or the default where it is undefined (with `boolean`: or false)."""
        return default if isinstance(value, Undefined) or (boolean and not value) else value

    def first(self, value: Any) -> Any:
        """The first item."""
        items = self.values.items_of(value)
        return items[0] if items else Undefined("an empty list has no first item")

    def last(self, value: Any) -> Any:
        """The last item."""
        items = self.values.items_of(value)
        return items[-1] if items else Undefined("an empty list has no last item")

    def as_list(self, value: Any) -> Any:
        """The items as a list."""
        return self.values.items_of(value)

    def pairs(self, value: Any) -> Lazy:
        """The pairs of a mapping."""
        if isinstance(value, Undefined):
            return Lazy([])
        if not isinstance(value, dict):
            raise TemplateFailure(f"{kind_of(value)} has no pairs")
        return Lazy(self.values.pairs(value))

    def backwards(self, value: Any) -> Any:
        """The items, or the characters of a text, from the last to the first."""
        if isinstance(value, str):
            self.budget.make(len(value))
            return piece(value, None, None, -1)
        return Lazy(self.values.items_of(value)[::-1])

    def join(self, value: Any, d: Any = "", attribute: Any = None) -> str:
        """The items as one text, with another between them."""
        items = self.values.items_of(value)
        if attribute is not None:
            items = [self._attribute(item, attribute) for item in items]
        parts = [self.values.text(item) for item in items]
        between = self.values.text(d)
        self.budget.make(sum(map(len, parts)) + len(between) * len(parts), len(parts))
        return joined(parts, between)

    def dictsort(self, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False) -> Any:
        """The pairs of a mapping, sorted by key or value."""
        if not isinstance(value, dict) or by not in ("key", "value"):
            raise TemplateFailure(f"dictsort of {kind_of(value)} by {by!r:.20} is not available")
        place = 0 if by == "key" else 1
        pairs = self.values.pairs(value)
        return self._sorted(pairs, lambda pair: _key(pair[place], case_sensitive), reverse)

    def sort(self, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None) -> Any:
        """The items in order."""
        items = self.values.items_of(value)
        return self._sorted(items, lambda item: _key(self._attribute(item, attribute), case_sensitive), reverse)

    def unique(self, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Lazy:
        """The items without those that came before."""
        items = self.values.items_of(value)
        self.budget.measure(items)
        found: dict[Any, Any] = {}
        for item in items:
            found.setdefault(_key(self._attribute(item, attribute), case_sensitive), item)
        return Lazy([*found.values()])

    def largest(self, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        """The largest item."""
        return self._outermost(max, value, case_sensitive, attribute)

    def smallest(self, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        """The smallest item."""
        return self._outermost(min, value, case_sensitive, attribute)

    def _outermost(self, choose: Callable[..., Any], value: Any, case_sensitive: Any, attribute: Any) -> Any:
        items = self.values.items_of(value)
        self.budget.measure(items)
        if not items:
            return Undefined("an empty list has no largest and no smallest item")
        return choose(items, key=lambda item: _key(self._attribute(item, attribute), case_sensitive))

    def total(self, value: Any, attribute: Any = None, start: Any = 0) -> Any:
        """All items added."""
        for item in self.values.items_of(value):
            start = self.values.calculate("+", start, self._attribute(item, attribute))
        return start

    def mapped(self, value: Any, *args: Any, **named: Any) -> Lazy:
        """An attribute of each item, or what a filter makes of it."""
        items = self.values.items_of(value)
        if not args and "attribute" in named:
            default = named.get("default")
            return Lazy([self._attribute(item, named["attribute"], default) for item in items])
        name, *others = args
        return Lazy([self._filtered(name, item, others, named) for item in items])

    def select(self, value: Any, *args: Any, **named: Any) -> Lazy:
        """The items that pass a test."""
        return self._selected(value, None, args, named, True)

    def reject(self, value: Any, *args: Any, **named: Any) -> Lazy:
        """The items that do not pass a test."""
        return self._selected(value, None, args, named, False)

    def selectattr(self, value: Any, attribute: Any, *args: Any, **named: Any) -> Lazy:
        """The items with an attribute that passes a test."""
        return self._selected(value, attribute, args, named, True)

    def rejectattr(self, value: Any, attribute: Any, *args: Any, **named: Any) -> Lazy:
        """The items with an attribute that does not pass a test."""
        return self._selected(value, attribute, args, named, False)

    def _selected(self, value: Any, attribute: Any, args: Any, named: Any, wanted: bool) -> Lazy:
        def passes(item: Any) -> bool:
            one = self._attribute(item, attribute)
            return bool(self._tested(args[0], one, args[1:], named) if args else one)

        return Lazy([item for item in self.values.items_of(value) if passes(item) is wanted])

    def _attribute(self, item: Any, path: Any, default: Any = None) -> Any:
        """An attribute by its path, such as "function.name"; None is the item itself."""
        self.budget.spend()
        parts = [] if path is None else path.split(".") if isinstance(path, str) else [path]
        for part in parts:
            self.budget.spend()
            item = self.values.item(item, int(part) if isinstance(part, str) and part.isdigit() else part)
            if default is not None and isinstance(item, Undefined):
                item = default
        return item

    def _sorted(self, items: Any, key: Callable[[Any], Any], reverse: Any) -> Any:
        size = self.budget.measure(items)
        self.budget.read(size * max(1, len(items).bit_length()))
        return sorted(items, key=key, reverse=bool(reverse))


def _key(value: Any, case_sensitive: Any) -> Any:
    return value.lower() if isinstance(value, str) and not case_sensitive else value


FILTERS: dict[str, Callable[..., Any]] = {
    "abs": Filters.absolute, "capitalize": Filters.capitalize, "count": Filters.length, "d": Filters.default,
    "default": Filters.default, "dictsort": Filters.dictsort, "first": Filters.first, "float": Filters.fraction,
    "indent": Filters.indent, "int": Filters.whole, "items": Filters.pairs, "join": Filters.join, "last": Filters.last,
    "length": Filters.length, "list": Filters.as_list, "lower": Filters.lower, "map": Filters.mapped,
    "max": Filters.largest, "min": Filters.smallest, "reject": Filters.reject, "rejectattr": Filters.rejectattr,
    "replace": Filters.replace, "reverse": Filters.backwards, "round": Filters.rounded, "safe": Filters.safe,
    "select": Filters.select, "selectattr": Filters.selectattr, "sort": Filters.sort, "string": Filters.as_text,
    "sum": Filters.total, "title": Filters.title, "tojson": Filters.tojson, "trim": Filters.trim,
    "unique": Filters.unique, "upper": Filters.upper, "wordcount": Filters.wordcount,
}  # fmt: skip
"""Filters by name; each takes the filters, the value, and the arguments."""
