"""Random walks along the mask end in texts of the structure; forks, drafts and threads change nothing in that."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwartet.engine import constrain
from qwartet.engine.constrain import Constraint, ConstraintCompiler
from qwartet.engine.structure import Structure
from qwartet.errors import RequestError, SettingError
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from tests.engine.walks import BYTE_IDS, COMPILER, STOPS, TOKENIZER, VOCAB_SIZE, checked_mask, walk
from tests.golden_data import real_vocabulary

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["甲", "b", None, 7]}, "minItems": 1, "maxItems": 3},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
    {"type": "array", "items": {"type": "number", "minimum": -1.5, "maximum": 2.25}, "minItems": 2},
    {"type": "string", "pattern": "^(猫|犬)+[0-9]{2,4}$"},
    {"enum": ["ja", "nein", 3, None, {"k": [True]}]},
    {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 99},
    {"const": 'it\'s "quoted" \\ 😀\n'},
    {"type": "string", "maxLength": 3},
]
REGEXES = [
    "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "[^a]{1,3}",
    "(?i)abc|x*",
    r"[一-龥]{2,5}[。!?]",
    "😀+|字",
    'a/\nstart: "x"\n',
    "(?s).{0,4}",
    r"^(yes|no)\.$",
]
CHOICES = [("yes", "no", "maybe"), ("a", "ab", "abc", ""), ("<|im_end|>", "龘", "😀", '"', "\\n", "\n", "\0 | x")]
STRUCTURES = [
    Structure(json_object=True),
    *(Structure(json_schema=schema) for schema in SCHEMAS),
    *(Structure(regex=regex) for regex in REGEXES),
    *(Structure(choice=choice) for choice in CHOICES),
]


@cache
def compiled(structure: Structure) -> Constraint:
    return COMPILER.compile(structure)


def text_of(ids: Sequence[int]) -> str:
    return TOKENIZER.decode(ids, errors="strict")


def is_of(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is of a schema, for the keywords of SCHEMAS; $ref means the whole PERSON."""
    if "$ref" in schema:
        return is_of(value, PERSON)
    if "anyOf" in schema:
        return any(is_of(value, one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if schema["type"] == "null":
        return value is None
    if schema["type"] == "string":
        fits = isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
        return fits and re.search(schema.get("pattern", ""), value) is not None
    if schema["type"] in ("integer", "number"):
        kinds = int if schema["type"] == "integer" else int | float
        fits = isinstance(value, kinds) and schema.get("minimum", value) <= value <= schema.get("maximum", value)
        return fits and value % schema.get("multipleOf", 1 if kinds is int else value or 1) == 0
    if schema["type"] == "array":
        fits = isinstance(value, list) and schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9)
        return fits and all(is_of(item, schema["items"]) for item in value)
    assert schema["type"] == "object", schema
    properties, others = schema["properties"], schema["additionalProperties"]
    return isinstance(value, dict) and all(
        is_of(item, properties[key]) if key in properties else others is not False and is_of(item, others)
        for key, item in value.items()
    )


def read_json(text: str) -> Any:
    """A JSON text that has no blanks around it; NaN and the like are no JSON."""
    assert text == text.strip()
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("seed", range(25))
def test_a_walk_through_any_object_ends_in_an_object(seed: int) -> None:
    text = text_of(walk(compiled(Structure(json_object=True)).fork(), random.Random(seed)))
    assert isinstance(read_json(text), dict)


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_a_walk_through_a_schema_ends_in_a_document_of_it(number: int) -> None:
    schema, texts = SCHEMAS[number], set()
    for seed in range(20):
        texts.add(text := text_of(walk(compiled(Structure(json_schema=schema)).fork(), random.Random(seed))))
        assert is_of(read_json(text), schema), text
        assert set(schema.get("required", ())) <= read_json(text).keys() if schema is PERSON else True
    assert len(texts) > 3 or "const" in schema, "the walks are not random"


@pytest.mark.parametrize("regex", REGEXES)
def test_a_walk_through_a_regex_ends_in_a_match_of_it(regex: str) -> None:
    for seed in range(20):
        text = text_of(walk(compiled(Structure(regex=regex)).fork(), random.Random(seed)))
        assert re.fullmatch(regex, text), text


@pytest.mark.parametrize("choice", CHOICES)
def test_walks_through_a_choice_end_in_every_one_of_its_texts(choice: tuple[str, ...]) -> None:
    constraint = compiled(Structure(choice=choice))
    assert {text_of(walk(constraint.fork(), random.Random(seed))) for seed in range(80)} == set(choice)


def num_spelled(constraint: Constraint, text: str) -> int:
    """How many of a text's bytes, as tokens of one byte each, may follow."""
    return constraint.count_valid(BYTE_IDS[list(text.encode())].tolist())


def is_whole(constraint: Constraint, text: str) -> bool:
    """Whether a text, spelled byte by byte, is one of the structure."""
    ids = BYTE_IDS[list(text.encode())].tolist()
    return constraint.count_valid([*ids, STOPS[0]]) == len(ids) + 1


@pytest.mark.parametrize("letter", ["é", "龘", "😀"])
def test_a_character_may_be_spread_over_several_tokens_and_is_whole_with_the_last(letter: str) -> None:
    constraint = compiled(Structure(regex="é|龘|😀")).fork()
    for byte in letter.encode():
        assert not constraint.is_complete
        assert checked_mask(constraint)[BYTE_IDS[byte]]
        constraint.accept(int(BYTE_IDS[byte]))
    assert constraint.is_finished


def test_a_whole_character_and_its_pieces_are_both_allowed() -> None:
    mask = compiled(Structure(choice=["我们"])).mask()
    allowed = {TOKENIZER.decode_bytes(int(token_id)) for token_id in np.flatnonzero(mask)}
    assert {"我".encode(), "我".encode()[:1]} <= allowed
    assert all("我们".encode().startswith(token) for token in allowed)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '{ "a" : [1 , -2.5e3,true,null]}',
        '{\n  "a": {\n    "b": ""\n  }\n}',
        '{"a":"\\n\\\\\\"é😀"}',
        "{\r\n}",
    ],
)
def test_the_usual_ways_to_write_json_are_allowed(text: str) -> None:
    assert is_whole(compiled(Structure(json_object=True)), text)


@pytest.mark.parametrize(
    ("text", "num_valid"),
    [
        ("[]", 0),
        (" {}", 0),
        ("{} ", 2),
        ("{  }", 2),
        ("{\n\n}", 2),
        ("{\n" + 65 * " " + "}", 66),
        ('{"a":01}', 6),
        ('{"a":NaN}', 5),
        ('{"a":1,}', 7),
        ("{'a':1}", 1),
        ('{"a":"\n"}', 6),
        ('{"\\u0061":1}', 3),
        ('{"a":"\\ud800"}', 7),
    ],
)
def test_what_is_not_json_or_leads_nowhere_is_not_allowed(text: str, num_valid: int) -> None:
    assert num_spelled(compiled(Structure(json_object=True)), text) == num_valid


def test_a_key_cannot_escape_from_the_schema_of_its_property() -> None:
    constraint = compiled(Structure(json_schema=SCHEMAS[1]))
    assert is_whole(constraint, '{"a": 1, "b": "x"}')
    assert not is_whole(constraint, '{"a": "x"}')
    assert not is_whole(constraint, '{"b": "x", "a": "x"}')
    assert not is_whole(constraint, '{"\\u0061": "x"}')


@pytest.mark.parametrize("regex", ["a/\nstart: b", "a//i", '"a"', "a\\/b", "a # b", "/", "%json", "<[1]>", "\\\\"])
def test_a_regex_cannot_escape_from_its_place_in_the_grammar(regex: str) -> None:
    text = regex.replace("\\/", "/").replace("\\\\", "\\").replace("[1]", "1")
    assert is_whole(COMPILER.compile(Structure(regex=regex)), text)


def test_the_stop_tokens_of_a_request_take_the_place_of_the_compilers() -> None:
    special = TOKENIZER.special_tokens["<|extra_3|>"]
    constraint = COMPILER.compile(Structure(choice=["j", "ja"]), [special, VOCAB_SIZE + 5, -1])
    for byte, may_stop in ((b"j", False), (b"a", True)):
        assert constraint.mask()[[special, *STOPS]].tolist() == [may_stop, False, False]
        constraint.accept(int(BYTE_IDS[ord(byte)]))
    assert np.flatnonzero(constraint.mask()).tolist() == [special]
    with pytest.raises(RequestError, match="does not continue the structure"):
        constraint.accept(STOPS[0])
    constraint.accept(special)
    assert constraint.is_complete and constraint.is_finished
    assert np.flatnonzero(constraint.mask()).tolist() == [special], "another stop token changes nothing"


def test_a_stop_token_that_is_text_stops_and_is_not_text() -> None:
    brace = int(BYTE_IDS[ord("}")])
    constraint = COMPILER.compile(Structure(regex="a[}]?b?"), [brace])
    assert not constraint.mask()[brace]
    constraint.accept(int(BYTE_IDS[ord("a")]))
    assert constraint.mask()[brace]
    assert constraint.count_valid([brace, int(BYTE_IDS[ord("b")])]) == 1
    constraint.accept(brace)
    assert constraint.is_finished


def test_without_stop_tokens_a_finished_text_allows_nothing() -> None:
    constraint = ConstraintCompiler(TOKENIZER, VOCAB_SIZE).compile(Structure(choice=["a"]))
    constraint.accept(int(BYTE_IDS[ord("a")]))
    assert constraint.is_finished and not constraint.mask().any()


def test_a_mask_has_as_many_ids_as_are_asked_for() -> None:
    constraint = compiled(Structure(json_object=True))
    assert np.array_equal(constraint.mask(300), constraint.mask()[:300])
    assert constraint.mask(300).shape == (300,)


@pytest.mark.parametrize("token_id", [-1, TOKENIZER.im_start_id, STOPS[0], VOCAB_SIZE - 1, VOCAB_SIZE, 2**40])
def test_an_id_that_is_not_allowed_is_refused_and_the_text_goes_on(token_id: int) -> None:
    constraint = compiled(Structure(choice=["ab"])).fork()
    assert constraint.count_valid([token_id]) == 0
    with pytest.raises(RequestError, match=f"token {token_id} does not continue the structure; choose"):
        constraint.accept(token_id)
    constraint.accept(int(BYTE_IDS[ord("a")]))


def test_text_that_does_not_continue_ends_the_request_with_an_error() -> None:
    constraint = compiled(Structure(choice=["ab"])).fork()
    with pytest.raises(RequestError, match="; "):
        constraint.accept(int(BYTE_IDS[ord("b")]))
    assert constraint.count_valid([int(BYTE_IDS[ord("a")])]) == 0
    assert not constraint.is_complete and not constraint.is_finished
    with pytest.raises(RequestError, match="cannot satisfy the structure"):
        constraint.mask()


def num_accepted(constraint: Constraint, ids: Sequence[int]) -> int:
    for place, token_id in enumerate(ids):
        try:
            constraint.accept(token_id)
        except RequestError:
            return place
    return len(ids)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(STRUCTURES), st.integers(0, 2**32), st.integers(0, 12), st.data())
def test_count_valid_says_how_many_ids_accept_would_take_and_changes_nothing(
    structure: Structure, seed: int, num_before: int, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    whole = walk(compiled(structure).fork(), rng, num_free=10)
    constraint = compiled(structure).fork()
    for token_id in whole[:num_before]:
        constraint.accept(token_id)
    drafts = whole[num_before : num_before + data.draw(st.integers(0, 8))]
    any_id = st.sampled_from([*STOPS, TOKENIZER.im_start_id, VOCAB_SIZE - 1]) | st.integers(0, VOCAB_SIZE - 1)
    drafts += data.draw(st.lists(any_id, max_size=3))
    before = constraint.mask()
    num_valid = constraint.count_valid(drafts)
    assert num_valid == num_accepted(constraint.fork(), drafts)
    assert np.array_equal(constraint.mask(), before)
    for token_id in drafts[:num_valid]:
        assert checked_mask(constraint)[token_id], "the mask and count_valid differ"
        constraint.accept(token_id)


def test_forks_go_their_own_ways() -> None:
    first = compiled(Structure(choice=["ax", "by", "byy"])).fork()
    second = first.fork()
    first.accept(int(BYTE_IDS[ord("a")]))
    second.accept(int(BYTE_IDS[ord("b")]))
    third = second.fork()
    third.accept(int(BYTE_IDS[ord("y")]))
    assert np.flatnonzero(first.mask()).tolist() == [BYTE_IDS[ord("x")]]
    assert {BYTE_IDS[ord("y")]} <= set(np.flatnonzero(second.mask()))
    assert third.is_complete and not third.is_finished and not second.is_complete
    third.accept(STOPS[0])
    assert third.fork().is_finished, "a copy knows that its text was stopped"


def test_threads_compile_and_walk_at_once_as_one_does_alone() -> None:
    def outcome(number: int, compiler: ConstraintCompiler) -> list[list[int]]:
        constraint = compiler.compile(STRUCTURES[number % len(STRUCTURES)])
        return [walk(constraint.fork(), random.Random(number), num_free=10) for _ in range(2)]

    alone = [outcome(number, COMPILER) for number in range(40)]
    fresh = ConstraintCompiler(TOKENIZER, VOCAB_SIZE, STOPS)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: outcome(number, fresh), range(40))) == alone


def test_forks_of_one_constraint_walk_in_several_threads() -> None:
    parent = COMPILER.compile(Structure(json_schema=PERSON))
    seeds = range(40)
    alone = [walk(parent.fork(), random.Random(seed)) for seed in seeds]
    forks = [COMPILER.compile(Structure(json_schema=PERSON)).fork() for _ in range(1)]
    forks = [forks[0].fork() for _ in seeds]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: walk(forks[seed], random.Random(seed)), seeds)) == alone


def test_the_published_vocabulary_never_gives_special_tokens_or_padded_rows() -> None:
    tokenizer = TiktokenTokenizer.load(real_vocabulary())
    constraint = ConstraintCompiler(tokenizer, 151_936).compile(Structure(json_object=True), [tokenizer.im_end_id])
    for text in ("{", '"', "名", '"', ":", "1", "}"):
        mask = constraint.mask()
        assert mask.shape == (151_936,) and mask.any() and not mask[151_643:].any()
        constraint.accept(tokenizer.encode(text)[0])
    assert np.flatnonzero(constraint.mask()).tolist() == [tokenizer.im_end_id]


def test_a_vocabulary_larger_than_the_logits_is_refused() -> None:
    with pytest.raises(SettingError, match=r"vocab_size is \d+, but the tokenizer has \d+ tokens"):
        ConstraintCompiler(TOKENIZER, TOKENIZER.num_tokens - 1)


def test_a_panic_of_native_code_is_an_error_of_the_request() -> None:
    class Panic(BaseException):
        pass

    def work() -> None:
        raise Panic("index out of range")

    with pytest.raises(RequestError, match="cannot be compiled: index out of range; use a simpler one"):
        constrain._with_deep_stack(work)
