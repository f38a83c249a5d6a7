"""Is a structure small enough to be compiled in bounded time and memory? Checked before native code sees it.

llguidance limits most of its work, but not all. The rest was measured with 1.9.1: stack per nested schema and per $ref
of a chain (an overflow ends the process), the square of the optional parts of a regex (64 KiB of `a*` take 4 GB), the
states of a multipleOf (10 million of them: minutes), pairs of patternProperties, and a power of two in the patterns
that one string must match (25 of them: minutes).
With these limits the worst case found takes about a second and 200 MB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from qwartet.engine.schema_formats import drop_unenforced_formats
from qwartet.engine.structure import Structure
from qwartet.errors import StructureError

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 64  # nested objects and lists
MAX_SCHEMA_VALUES = 10_000  # objects, lists, strings, numbers
MAX_REF_LEVELS = 1000  # different $refs times depth: how deep native code can recurse, at most 5 KB of stack each
MAX_REGEX_BYTES = 4 << 10
MAX_PATTERN_BYTES = 8 << 10  # of all patterns in a schema
MAX_PATTERN_PROPERTIES = 64
MAX_JOINED_PATTERNS = 12  # different patterns and formats of a schema where several may apply to one string
MAX_MULTIPLE = 50_000  # least common multiple of all multipleOf: states of the automaton that divides
MAX_CHOICES = 10_000
MAX_CHOICE_BYTES = 64 << 10  # in total
MAX_TOOLS = 1000  # their number alone takes time: 10,000 without a schema take 1.6 s

_JOINS = {"allOf", "anyOf", "oneOf", "$ref"}  # keywords beside one of these apply together with it
_PARTS = {"properties", "patternProperties", "additionalProperties", "items", "prefixItems"}
_JOINED = _JOINS | _PARTS | {"pattern", "format"}

_LOCAL_ONLY = "move its target into $defs and write #/$defs/NAME; nothing is fetched"


def check_choice(choice: tuple[str, ...]) -> None:
    """StructureError for too many choices, or too long ones."""
    _check_size("choice", len(choice), MAX_CHOICES, "texts")
    _check_size("choice", sum(len(text.encode()) for text in choice), MAX_CHOICE_BYTES, "bytes")


def check_tools(names: Sequence[str]) -> None:
    """StructureError for too many tools."""
    _check_size("tool_calls", len(names), MAX_TOOLS, "tools")


def check_regex(regex: str) -> None:
    """StructureError for a regex that is too long or ends in an incomplete escape."""
    _check_size("regex", len(regex.encode()), MAX_REGEX_BYTES, "bytes")
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise StructureError(f"the regex {regex!r:.80} ends in a lone backslash; write \\\\ for a literal one")


def parse_schema(structure: Structure) -> dict[str, Any]:
    """The JSON schema of a structure, within all limits; StructureError says what is wrong with it."""
    return parse_schemas([structure.schema_text])[0]


def parse_schemas(texts: Sequence[str]) -> list[dict[str, Any]]:
    """JSON schemas to compile together, within limits on their total; StructureError as above."""
    _check_size("the schema", sum(len(text.encode()) for text in texts), MAX_SCHEMA_BYTES, "bytes")
    schemas = [_parsed(text) for text in texts]
    for schema in schemas:
        drop_unenforced_formats(schema)
    all_objects, num_values = [], 0
    for schema, text in zip(schemas, texts, strict=True):
        if "x-guidance" in schema:
            raise StructureError("the schema has the key x-guidance, which is not part of JSON schema; leave it out")
        objects, depth = [], 0
        for value, level in _values(schema):
            depth, num_values = max(depth, level), num_values + 1
            if isinstance(value, dict):
                objects.append(value)
        _check_size("the schema", depth, MAX_SCHEMA_DEPTH, "nested levels")
        _check_size("the schema", num_values, MAX_SCHEMA_VALUES, "values")
        _check_references(schema, objects, depth, id_keys=("$id", "id") if "draft-04" in text else ("$id",))
        _check_joined_patterns(objects)
        all_objects += objects
    _check_patterns(all_objects)
    _check_multiples(all_objects)
    for schema in schemas:
        try:
            json.dumps(schema, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise StructureError("the schema has an unpaired surrogate; write complete characters") from error
    return schemas


def _parsed(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise StructureError(f"the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels; flatten it") from error
    except ValueError as error:
        raise StructureError(f"the schema is not valid JSON: {error}; send a JSON object") from error
    if not isinstance(schema, dict):
        raise StructureError(f"the schema is {text[:40]}; it must be a JSON object")
    return schema


def _values(schema: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    """Every value of a schema with its level, at any position: a $ref can turn any of them into a schema."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        value, level = waiting.pop()
        yield value, level
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting += [(one, level + 1) for one in inner]


def _check_references(schema: Any, objects: list[dict[str, Any]], depth: int, id_keys: tuple[str, ...]) -> None:
    references = set()
    for one in objects:
        reference = one.get("$ref")
        if isinstance(reference, str):
            references.add(reference)
            if not reference.startswith("#"):
                raise StructureError(f"the schema has the remote $ref {reference!r:.80}; {_LOCAL_ONLY}")
        if one is not schema and any(isinstance(one.get(key), str) for key in id_keys):
            raise StructureError(f"the schema has a nested $id; leave it out, or {_LOCAL_ONLY}")
    _check_size("the schema", (len(references) + 1) * depth, MAX_REF_LEVELS, "levels ($refs times depth)")


def _patterns(objects: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The names of all patternProperties, and all patterns."""
    maps = [one["patternProperties"] for one in objects if isinstance(one.get("patternProperties"), dict)]
    return [name for one in maps for name in one], [
        one["pattern"] for one in objects if isinstance(one.get("pattern"), str)
    ]


def _check_patterns(objects: list[dict[str, Any]]) -> None:
    names, patterns = _patterns(objects)
    sizes = [len(pattern.encode(errors="replace")) for pattern in names + patterns]
    _check_size("the schema", len(names), MAX_PATTERN_PROPERTIES, "patternProperties")
    _check_size("the schema", max(sizes, default=0), MAX_REGEX_BYTES, "bytes in one pattern")
    _check_size("the schema", sum(sizes), MAX_PATTERN_BYTES, "bytes of patterns")


def _check_joined_patterns(objects: list[dict[str, Any]]) -> None:
    if any(map(_can_join, objects)):
        # All of them count: which ones apply together is hard to tell, and few schemas have more.
        names, patterns = _patterns(objects)
        formats = {one["format"] for one in objects if isinstance(one.get("format"), str)}
        num_different = len({*names, *patterns}) + len(formats)
        _check_size("a schema with allOf or similar", num_different, MAX_JOINED_PATTERNS, "patterns and formats")


def _can_join(one: dict[str, Any]) -> bool:
    """Whether this object can apply two schemas to one value."""
    has_several = isinstance(one.get("allOf"), list) and len(one["allOf"]) > 1
    has_siblings = bool(_JOINS & one.keys()) and len(_JOINED & one.keys()) > 1
    return has_several or has_siblings or {"properties", "patternProperties"} <= one.keys()


def _check_multiples(objects: list[dict[str, Any]]) -> None:
    """allOf can combine several multipleOf, and so require their common multiple; 0.05 = 1/20 counts as 1."""
    common = 1
    for one in objects:
        step = one.get("multipleOf")
        if isinstance(step, int | float) and not isinstance(step, bool) and step:
            common = math.lcm(common, Fraction(str(step)).numerator)
            if common > MAX_MULTIPLE:
                raise StructureError(f"the common multiple of all multipleOf is above {MAX_MULTIPLE}; use simpler ones")


def _check_size(what: str, size: int, limit: int, unit: str) -> None:
    if size > limit:
        raise StructureError(f"{what} has {size} {unit}; at most {limit} are allowed")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
