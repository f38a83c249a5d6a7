"""Structures that are impossible, or meant to do harm, are refused in plain words; none ends the process."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwartet.engine.structure import Structure, ToolCalls
from qwartet.errors import RequestError
from tests.engine.walks import BYTE_IDS, COMPILER, walk

REPOSITORY = Path(__file__).resolve().parent.parent.parent

IMPOSSIBLE = {
    "empty text": (Structure(choice=[""]), "only the empty text"),
    "no regex": (Structure(regex="a("), "unclosed group; change"),
    "look-ahead": (Structure(regex="(?=a)b"), "look-ahead and look-behind, is not supported; change"),
    "back-reference": (Structure(regex=r"(a)\1"), "backreferences are not supported; change"),
    "border of a word": (Structure(regex=r"a\b"), "word and line boundaries are not supported; leave them out"),
    "not UTF-8": (Structure(regex=r"(?-u:\xff)"), "can match invalid UTF-8; change"),
    "no letter": (Structure(regex=r"[^\x00-\x{10FFFF}]"), "no text can satisfy it; change"),
    "itself": (Structure(json_schema={"$ref": "#"}), "no text can satisfy it; change"),
    "empty enum": (Structure(json_schema={"enum": []}), "no text can satisfy it: .*; change"),
    "no such name": (Structure(json_schema={"$ref": "#/$defs/a"}), "'/.defs/a' does not exist; change"),
    "keyword": (Structure(json_schema={"not": {}, "if": {}}), r'not supported: \["if", "not"\]; leave them out'),
    "two of oneOf": (Structure(json_schema={"oneOf": [{}, {}]}), "no two can hold at once; use anyOf"),
    "wrong type": (Structure(json_schema={"minLength": "x"}), "Expected positive integer for 'minLength', .*; change"),
    "format of no text": (Structure(json_schema={"type": "string", "format": 5}), "Expected string for 'format'.*; ch"),
    "huge number": (Structure(json_schema={"minimum": 10**4000}), "number out of range.*; write it more simply"),
    "control character": (Structure(json_schema={"const": "\1"}), "no text can satisfy it; change"),
    "combinations": (
        Structure(json_schema={"allOf": [{"anyOf": [{"enum": [f"{i}{j}"]} for i in range(10)]} for j in range(12)]}),
        "; ",
    ),
}


@pytest.mark.parametrize(("structure", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_structure_that_cannot_be_kept_to_is_refused_in_one_line_that_says_what_to_do(
    structure: Structure, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        COMPILER.compile(structure)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 600


def test_a_text_that_nothing_continues_is_an_error_and_not_an_empty_mask() -> None:
    with pytest.raises(RequestError, match="no token continues the text; "):
        COMPILER.compile(Structure(choice=["a"]), [int(BYTE_IDS[ord("a")])])


def test_what_turns_out_to_be_too_complex_later_is_an_error_of_that_text() -> None:
    properties = {f"p{i}": {"type": "string"} for i in range(1500)}
    constraint = COMPILER.compile(Structure(json_schema={"properties": properties, "type": "object"}))
    child = constraint.fork()
    with pytest.raises(RequestError, match="fewer alternatives and optional properties"):
        walk(constraint, random.Random(0))
    assert child.mask().any()


def test_a_schema_brings_nothing_from_the_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema"
        for schema in ({"$schema": url}, {"$id": url, "$ref": "#/a"}, {"$ref": url}, {"$dynamicRef": url}):
            with pytest.raises(RequestError, match="; "):
                COMPILER.compile(Structure(json_schema=schema))
        with pytest.raises(BlockingIOError):
            server.accept()


def deep(text: str, levels: int, inner: str = "{}", end: str = "}") -> str:
    return text * levels + inner + end * levels


def chain(num_refs: int, levels: int) -> str:
    """Definitions that each name the next one, under as many levels: the deepest recursion of native code."""
    definitions = (f'"d{i}":' + deep('{"items":', levels, f'{{"$ref":"#/$defs/d{i + 1}"}}') for i in range(num_refs))
    return f'{{"$ref":"#/$defs/d0","$defs":{{{",".join(definitions)},"d{num_refs}":{{}}}}}}'


def doubled(keyword: str) -> dict[str, Any]:
    """2^60 ways through 60 definitions."""
    return {"$ref": "#/$defs/0", "$defs": {str(i): {keyword: [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(60)}}


HOSTILE = [
    *({"json_schema": chain(*size)} for size in ((15, 50), (100, 6), (240, 0))),
    *({"json_schema": deep(f'{{"{key}":', 62)} for key in ("items", "not", "additionalProperties")),
    *({"json_schema": deep(f'{{"{key}":[{{"minLength":3}},', 31, end="]}")} for key in ("allOf", "anyOf", "oneOf")),
    *({"json_schema": json.dumps(doubled(key))} for key in ("allOf", "anyOf", "oneOf")),
    *({"json_schema": {"const": text}} for text in ("字" * 10_000, "a" * 65_000)),
    *({"json_schema": {kind: size}} for kind in ("minItems", "maxItems", "minLength") for size in (10**9, 2**64)),
    {"json_schema": {"type": "array", "items": {"type": "array", "minItems": 999, "maxItems": 10**6}, "minItems": 999}},
    {"json_schema": {"type": "integer", "multipleOf": 49_999}},
    {"json_schema": {"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(12)]}},
    {"json_schema": {"allOf": [{"anyOf": [{"required": [f"{i}-{j}"]} for j in range(60)]} for i in range(2)]}},
    {"json_schema": {"enum": [{"a": i, "b": [i] * 3} for i in range(1000)]}},
    {"json_schema": {"type": "object", "required": [f"p{i}" for i in range(4000)]}},
    {"json_schema": {"patternProperties": {f"^{i}(a|b)*a(a|b){{{i}}}$": {} for i in range(10, 74)}}},
    *({"regex": regex * (4096 // len(regex))} for regex in ("a*", "a?", "(a|b)*", r"\w{9}", ".*a", "字?", "[^a]+")),
    *({"regex": regex} for regex in (f"{'(' * 2000}a{')*' * 1000}", "((a{1,99}){1,99}){1,99}", "a{1000000000}")),
    *({"regex": regex} for regex in ("(a|b)*a(a|b){30}", "(?s)(.{7})*(.{11})*(.{13})*x", "[" * 4096)),
    {"choice": ["a" * i for i in range(1, 350)]},
    {"choice": [f"{i:06}" for i in range(10_000)]},
    {"choice": ["\0", "\ud7ff\ue000\uffff\U0010ffff", "\u2028"]},
]

CHILD = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from tests.engine.test_hostile_structures import COMPILER, HOSTILE, RequestError, Structure
from tests.engine.walks import checked_mask

for number, arguments in enumerate(HOSTILE):
    start_s = time.perf_counter()
    print(number, json.dumps(arguments)[:60], file=sys.stderr, flush=True)  # the last line names what ended the process
    try:
        constraint = COMPILER.compile(Structure(**arguments))
        for _ in range(40):
            if not constraint.is_finished:
                constraint.accept(int(np.flatnonzero(checked_mask(constraint))[-1]))
    except RequestError as error:
        assert "; " in str(error)
    seconds = time.perf_counter() - start_s
    assert seconds < 10, f"{seconds:.1f} s"
status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
print("survived", int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) >> 10)
"""


def test_no_structure_ends_the_process_or_takes_long_or_much() -> None:
    """In a process of its own: what overflows the stack in native code cannot be caught."""
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.stdout.startswith("survived"), f"{done.returncode}: {done.stderr[-2000:]}"
    assert int(done.stdout.split()[1]) < 1000, "MB"


@pytest.mark.parametrize(
    "structure",
    [
        Structure(choice=[f"{i}" for i in range(10_001)]),
        Structure(choice=["a" * 65_537]),
        Structure(json_schema={"enum": [f"{i:06}" for i in range(10_001)]}),
        Structure(json_schema={"enum": ["a" * 65_537]}),
        Structure(tool_calls=ToolCalls({f"t{i}": None for i in range(1001)})),
    ],
)
def test_what_is_huge_is_refused_before_native_code_sees_it(
    structure: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwartet.engine.constrain.LLMatcher", None)
    with pytest.raises(RequestError, match=r"has \d+ \w+; at most \d+ are allowed"):
        COMPILER.compile(structure)


LIMITED = """
import re, resource
from pathlib import Path
from tests.engine.test_hostile_structures import COMPILER, Structure

choice = Structure(choice=[f"{i:06}" for i in range(10_000)])
COMPILER.compile(Structure(choice=["a", "b"]))
in_use = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
for free in (1, 4, 16, 64, 200):
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (free << 20), resource.RLIM_INFINITY))
    try:
        COMPILER.compile(choice)
    except MemoryError:
        continue
    raise SystemExit(f"compiled with {free} MB")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
COMPILER.compile(choice)
print("survived")
"""


def test_a_process_without_memory_for_a_structure_says_so_and_goes_on() -> None:
    """Native code would end it, or the thread that compiles would never start."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.stdout == "survived\n", f"{done.returncode}: {done.stderr[-2000:]}"
