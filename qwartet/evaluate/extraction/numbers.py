"""The last number of a text, as the published scripts that ask GSM8K find it."""

from __future__ import annotations

import re
from math import isclose

# eval/evaluate_chat_gsm8k.py of the Qwen repository: a sign, digits with or without groups of thousands, a fraction.
_CHAT = re.compile(r"([+-])?(?=([0-9]|\.[0-9]))(0|([1-9](\d{0,2}(,\d{3})*)|\d*))?(\.\d*)?(?=\D|$)")
# benchmark/code_interpreter/metrics/gsm8k.py of Qwen-Agent: a number between blanks or signs; line feeds are \\n there.
_ALONE = re.compile(r"(?<=(\s|[\$%#{]))([+-])?(?=(\S))(0|([1-9](\d*|\d{0,2}(,\d{3})*)))?(\.\d*[1-9])?(?=(\s|[.,}]|$))")
_BASE = re.compile(r"\d+")
_REFERENCE = re.compile(r"#### (-?[0-9.,]+)")


def last_number(text: str) -> str | None:
    """The last number of a chat model's answer, without its commas; None without one."""
    found = [match[0] for match in _CHAT.finditer(text)]
    return found[-1].replace(",", "").removesuffix(".") if found else None


def last_digits(text: str) -> str | None:
    """The last run of digits of a base model's answer; None without one."""
    found = _BASE.findall(text)
    return found[-1] if found else None


def last_lone_number(text: str) -> str | None:
    """The last number that stands alone, without plus; None without one.

    As published, "2,125" is 2: a comma ends it. So are the solutions read.
    """
    found = [match[0] for match in _ALONE.finditer(text.strip(".").replace("\n", "\\n"))]
    return found[-1].replace("+", "") or None if found else None


def reference_number(solution: str) -> str | None:
    """The number after "####" of a GSM8K solution, without its commas; None without one."""
    match = _REFERENCE.search(solution)
    return None if match is None else match[1].replace(",", "")


def is_same_number(found: str | None, reference: str) -> bool:
    """Whether two numbers differ by at most 1e-4, the published tolerance (relative 1e-9, math.isclose's own)."""
    try:
        return found is not None and isclose(float(found), float(reference), abs_tol=1e-4)
    except ValueError:  # a lone point, say
        return False


def is_equal_number(found: str | None, reference: str) -> bool:
    """Whether two numbers are equal, whole ones of any size."""
    try:
        return found is not None and _value(found) == _value(reference)
    except ValueError:  # a lone sign, or more digits than Python reads
        return False


def _value(text: str) -> float:
    return float(text) if "." in text else int(text)
