"""What a structure may be, and from what size on it is refused before native code sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.engine.structure import Structure
from qwartet.engine.structure_limits import check_choice, check_regex, parse_schema
from qwartet.errors import RequestError, SettingError

HALF_PAIR = "\ud800"  # of UTF-16: no letter


def check(structure: Structure) -> None:
    """Refuses what is too large, as the compiler does."""
    if structure.json_schema is not None:
        parse_schema(structure)
    elif structure.regex is not None:
        check_regex(structure.regex)
    elif structure.choice is not None:
        check_choice(structure.choice)


def nested(levels: int, key: str = "items") -> dict[str, Any]:
    return json.loads(f'{{"{key}":' * (levels - 1) + "{}" + "}" * (levels - 1))


@pytest.mark.parametrize(
    "given_kinds",
    [
        {},
        {"json_object": False},
        {"json_object": True, "regex": "a"},
        {"json_object": True, "regex": False},
        {"json_schema": {}, "choice": ["a"]},
    ],
)
def test_exactly_one_kind_must_be_given(given_kinds: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="set exactly one of json_object, json_schema, regex, choice"):
        Structure(**given_kinds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("json_object", 1),
        ("json_object", "yes"),
        ("json_schema", False),
        ("json_schema", [1]),
        ("json_schema", {"minimum": float("nan")}),
        ("json_schema", {"enum": {1, 2}}),
        ("json_schema", {(1, 2): 3}),
        ("json_schema", HALF_PAIR),
        ("regex", ""),
        ("regex", 5),
        ("regex", False),
        ("regex", HALF_PAIR),
        ("choice", "abc"),
        ("choice", []),
        ("choice", ["a", 1]),
        ("choice", [HALF_PAIR]),
        ("choice", {"a": 1}),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{name} "):
        Structure(**{name: value})


def test_a_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    with pytest.raises(SettingError, match="use plain dicts and lists"):
        Structure(json_schema=schema)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(["json_object", "json_schema", "regex", "choice"]), anything)
def test_any_value_is_accepted_or_refused_with_an_error_that_says_what_to_do(kind: str, value: Any) -> None:
    try:
        check(Structure(**{kind: value}))
    except (SettingError, RequestError) as error:
        assert "; " in str(error)


def test_a_structure_does_not_change_when_what_it_was_made_of_does() -> None:
    schema, choice = {"enum": ["a"]}, ["a", "b"]
    by_schema, by_choice = Structure(json_schema=schema), Structure(choice=choice)
    schema["enum"].append("b")
    choice.append("c")
    assert parse_schema(by_schema) == {"enum": ["a"]}
    assert by_choice.choice == ("a", "b")
    assert len({by_schema, by_choice, Structure(choice=["a", "b"])}) == 2


def patterned(num_patterns: int) -> dict[str, Any]:
    return {"allOf": [{"pattern": f"^a{{{i}}}"} for i in range(num_patterns)]}


# A structure at its limit, one above it, and what is said of that.
LIMITS: dict[str, tuple[Any, Any, str]] = {
    "schema bytes": (
        {"const": "x" * ((64 << 10) - 13)},
        {"const": "x" * ((64 << 10) - 12)},
        "the schema has 65537 bytes; at most 65536 are",
    ),
    "depth": (nested(64), nested(65), "65 nested levels; at most 64"),
    "depth of a list": (
        {"const": json.loads("[" * 63 + "]" * 63)},
        {"const": json.loads("[" * 64 + "]" * 64)},
        "65 nested levels; at most 64",
    ),
    "depth, far above": ('{"items":{}}', '{"items":' * 5000, "nested deeper than 64 levels; flatten it"),
    "values": ({"enum": [1] * 9998}, {"enum": [1] * 9999}, "10001 values; at most 10000"),
    "references": (
        {**nested(50), "oneOf": [{"$ref": f"#/{i}"} for i in range(19)]},
        {**nested(50), "oneOf": [{"$ref": f"#/{i}"} for i in range(20)]},
        r"1050 levels \(\$refs times depth\); at most 1000",
    ),
    "pattern bytes": ({"pattern": "é" * 2048}, {"pattern": "é" * 2049}, "4098 bytes in one pattern; at most 4096"),
    "bytes of patterns": (
        {"properties": {"a": {"pattern": "a" * 4096}, "b": {"pattern": "b" * 4096}}},
        {"properties": {"a": {"pattern": "a" * 4096}, "b": {"pattern": "b" * 4096}, "c": {"pattern": "c"}}},
        "8193 bytes of patterns; at most 8192",
    ),
    "pattern properties": (
        {"patternProperties": {f"^{i}$": {} for i in range(64)}},
        {"patternProperties": {f"^{i}$": {} for i in range(65)}},
        "65 patternProperties; at most 64",
    ),
    "joined patterns": (patterned(12), patterned(13), "13 patterns and formats; at most 12"),
    "joined patterns and formats": (
        {**patterned(11), "properties": {"a": {"format": "date"}}},
        {**patterned(12), "properties": {"a": {"format": "date"}}},
        "13 patterns and formats; at most 12",
    ),
    "multipleOf": ({"multipleOf": 50_000}, {"multipleOf": 50_001}, "multipleOf is above 50000; use simpler ones"),
    "multiples together": (
        {"allOf": [{"multipleOf": 200}, {"multipleOf": 250}, {"multipleOf": 0.05}]},
        {"allOf": [{"multipleOf": 223}, {"multipleOf": 227}]},
        "multipleOf is above 50000; use simpler ones",
    ),
    "multipleOf with decimals": (
        {"multipleOf": 0.00005},
        {"multipleOf": 500.01},
        "multipleOf is above 50000; use simpler ones",
    ),
    "multiples of many digits": (
        {"multipleOf": 1},
        f'{{"multipleOf": {"7" * 4290}, "items": {{"multipleOf": 0.7}}}}',
        "multipleOf is above 50000",
    ),
}


@pytest.mark.parametrize(("at_limit", "above", "message"), LIMITS.values(), ids=LIMITS)
def test_a_schema_at_a_limit_is_taken_and_one_above_it_refused(at_limit: Any, above: Any, message: str) -> None:
    parse_schema(Structure(json_schema=at_limit))
    with pytest.raises(RequestError, match=message):
        parse_schema(Structure(json_schema=above))


@pytest.mark.parametrize(
    "joining",
    [
        {"allOf": [{}, {}]},
        {"anyOf": [{}, {}], "pattern": "a"},
        {"$ref": "#/$defs/a", "properties": {}},
        {"oneOf": [{}], "anyOf": [{}]},
        {"allOf": [{}], "format": "date"},
        {"properties": {}, "patternProperties": {}},
    ],
)
def test_patterns_are_counted_wherever_two_may_have_to_match_one_text(joining: dict[str, Any]) -> None:
    many = {f"p{i}": {"pattern": f"^a{{{i}}}"} for i in range(13)}
    parse_schema(Structure(json_schema={"properties": many}))
    with pytest.raises(
        RequestError, match=r"a schema with allOf or similar has 1[34] patterns and formats; at most 12"
    ):
        parse_schema(Structure(json_schema={"properties": {**many, "joining": joining}}))


def test_the_same_pattern_counts_once_and_an_alternative_without_siblings_does_not_join() -> None:
    dates = {
        f"p{i}": {"anyOf": [{"format": "date"}, {"pattern": "a"}, {"type": "null"}], "default": None} for i in range(40)
    }
    parse_schema(Structure(json_schema={"allOf": [{"properties": dates}, {"$ref": "#/allOf/0"}]}))
    many = {f"p{i}": {"anyOf": [{"pattern": str(i)}, {"type": "null"}], "title": "t"} for i in range(40)}
    parse_schema(Structure(json_schema={"properties": many}))


@pytest.mark.parametrize(
    ("kind", "at_limit", "above", "message"),
    [
        ("regex", "é" * 2048, "é" * 2049, "regex has 4098 bytes; at most 4096"),
        ("regex", r"a\\", "a\\", "ends in a lone backslash; write"),
        ("choice", ["a"] * 10_000, ["a"] * 10_001, "choice has 10001 texts; at most 10000"),
        ("choice", ["é" * (32 << 10)], ["é" * (32 << 10), "a"], "choice has 65537 bytes; at most 65536"),
    ],
)
def test_a_regex_or_choice_at_a_limit_is_taken_and_one_above_it_refused(
    kind: str, at_limit: Any, above: Any, message: str
) -> None:
    check(Structure(**{kind: at_limit}))
    with pytest.raises(RequestError, match=message):
        check(Structure(**{kind: above}))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"$ref": "http://127.0.0.1/x.json"},
            r"the remote \$ref .*; move its target into \$defs.*nothing is fetched",
        ),
        ({"items": {"$ref": "file:///etc/passwd"}}, r"the remote \$ref"),
        ({"items": {"$ref": "other.json#/a"}}, r"the remote \$ref"),
        ({"$ref": ""}, r"the remote \$ref"),
        ({"items": {"$id": "http://127.0.0.1/x"}}, r"has a nested \$id; leave it out"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "items": {"id": "x"}}, r"has a nested \$id"),
        ({"x-guidance": {}}, "x-guidance, which is not part of JSON schema; leave it out"),
        ("{", "is not valid JSON: .*; send a JSON object"),
        ("[]", r"the schema is \[\]; it must be a JSON object"),
        ("true", "the schema is true; it must be a JSON object"),
        ('{"minimum": NaN}', "NaN is not a finite number"),
        ('{"minimum": 1e999}', "1e999 is not a finite number"),
        (f'{{"minimum": {"1" * 5000}}}', "is not valid JSON: .*; send a JSON object"),
        ({"const": HALF_PAIR}, "an unpaired surrogate; write complete characters"),
        ({"properties": {HALF_PAIR: {}}}, "an unpaired surrogate"),
        ({"pattern": HALF_PAIR}, "an unpaired surrogate"),
    ],
)
def test_an_ill_formed_schema_is_refused_with_a_reason(schema: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_schema(Structure(json_schema=schema))


def test_a_schema_may_have_a_name_of_its_own() -> None:
    schema = {"$id": "https://example.org/person", "$ref": "#/$defs/a", "$defs": {"a": {}}}
    assert parse_schema(Structure(json_schema=schema)) == schema


def test_keywords_that_are_names_of_properties_are_not_keywords() -> None:
    names = ("$ref", "$id", "pattern", "multipleOf", "patternProperties", "format", "x-guidance", "allOf")
    schema = {"properties": {name: {"type": "string"} for name in names}}
    assert parse_schema(Structure(json_schema=schema)) == schema


def test_asking_for_a_structure_loads_neither_torch_nor_the_library_that_enforces_it() -> None:
    code = (
        "import sys, qwartet.engine.structure_limits; early = set(sys.modules); import qwartet.engine.constrain; "
        "print({'torch', 'llguidance', 'tiktoken'} & early, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("set() False\n", "")
