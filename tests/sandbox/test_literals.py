"""Arguments and answers cross as Python literals: every plain value arrives as itself, nothing else arrives."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import SandboxError
from qwartet.sandbox.inside import literal, plain
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.verdict import Problem, judge
from qwartet.sandbox.walls import Sandbox

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
)  # fmt: skip
SETS = st.sets(st.integers() | st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | SETS | st.dictionaries(SCALARS, inner)
    ),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_a_plain_value_arrives_as_itself(value: Any) -> None:
    arrived = literal(ascii(plain(value)))
    assert arrived == value and type(arrived) is type(value)


def test_not_a_number_arrives() -> None:
    [found, rest] = literal(ascii(plain([math.nan, (-math.inf, math.inf, set())])))
    assert math.isnan(found) and rest == (-math.inf, math.inf, set())


class Colour(IntEnum):
    RED = 3


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED, Point(1, 2), Counter("abca"), OrderedDict(a=1), defaultdict(list, a=[1]), {"a": 1}.keys(),
        frozenset({1}), bytearray(b"ab"), Fraction(1, 2), Decimal(3), frozenset({(1, 2)}),
    ],
)  # fmt: skip
def test_what_equals_a_plain_value_becomes_it(value: Any) -> None:
    assert literal(ascii(plain(value))) == value


@pytest.mark.parametrize("value", [object(), deque([1]), range(3), Fraction(1, 3), len, int])
def test_what_equals_no_plain_value_does_not_cross(value: Any) -> None:
    with pytest.raises(TypeError, match="not a plain value"):
        plain(value)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "exit()", "a", "[x for x in ()]", "1 if 1 else 2", "", "1 2", "f''"]
)
def test_what_is_no_literal_is_not_read(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        assert literal(text) == ""


def verdict_of(sandbox: Sandbox, source: str, test: str, prompt: str = "def f(x):\n    ''' '''\n") -> str:
    body = "".join(f"    {line}\n" for line in test.splitlines())
    return judge(sandbox, Problem(prompt, "f", f"def check(candidate):\n{body}"), source, Limits()).reason


def test_special_values_and_keywords_cross_both_ways(sandbox: Sandbox) -> None:
    test = (
        "import math\nvalues = [None, True, 1.5, -math.inf, {1}, set(), (), ('a',), b'x', {'k': [2j]}, 'é\\n\\ud800']\n"
    )
    test += "for value in values:\n    got = candidate(value)\n    assert got == value and type(got) is type(value)\n"
    test += "assert math.isnan(candidate(math.nan)) and candidate(x=7) == 7 and candidate([1]) is not None"
    assert verdict_of(sandbox, "def f(x):\n    return x\n", test) == "passed"


def test_an_expected_exception_is_raised_in_the_tests(sandbox: Sandbox) -> None:
    test = "try:\n    candidate(1)\nexcept ValueError as error:\n    assert 'no' in str(error)\nelse:\n    assert False"
    assert verdict_of(sandbox, "def f(x):\n    raise ValueError('no')\n", test) == "passed"
    assert verdict_of(sandbox, "def f(x):\n    raise KeyError('no')\n", test) == "exception"
    assert verdict_of(sandbox, "def f(x):\n    return 1\n", test) == "wrong result"


def test_an_iterator_is_one_for_the_tests_too(sandbox: Sandbox) -> None:
    source = "def f(x):\n    return (n for n in range(x))\n"
    assert verdict_of(sandbox, source, "assert tuple(candidate(3)) == (0, 1, 2)") == "passed"
    assert verdict_of(sandbox, source, "assert candidate(3) == [0, 1, 2]") == "wrong result"


def test_the_tests_use_the_prompts_functions_not_the_candidates(sandbox: Sandbox) -> None:
    prompt = "import math\ndef twice(x):\n    return 2 * x\ndef f(x):\n    ''' '''\n"
    forged = "class Same:\n    __eq__ = lambda *_: True\ndef twice(x):\n    return Same()\ndef f(x):\n    return 1\n"
    test = "assert candidate(4) == twice(4) == f(4) and math.pi > 3"
    assert verdict_of(sandbox, prompt + "    return x + x\n", test, prompt) == "passed"
    assert verdict_of(sandbox, forged, test, prompt) == "wrong result"


def test_verdicts_are_the_same_in_every_run(sandbox: Sandbox) -> None:
    """Sets are in one order, and the tests' random numbers are the same ones."""
    source = "def f(x):\n    return ''.join({'a', 'b', 'c', 'd', 'e', 'f'})\n"
    test = "import random\nassert candidate(1) == 'abcdef', (candidate(1), random.random())"
    problem = Problem("def f(x):\n    ''' '''\n", "f", "def check(candidate):\n    " + test.replace("\n", "\n    "))
    assert len({judge(sandbox, problem, source, Limits()) for _ in range(4)}) == 1


def test_tests_that_cannot_be_run_are_an_error_not_a_verdict(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="the tests cannot be run"):
        verdict_of(sandbox, "def f(x):\n    return 1\n", "assert (")
