"""Untrusted bytes to JSON values, or the reason why they are invalid."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parse_json(raw: bytes) -> Any:
    """The value of UTF-8 bytes, with finite numbers only; ValueError has a short reason.

    If an object repeats a key, the last value counts.
    """
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_float=_finite_float, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, line {error.lineno} column {error.colno}") from None
    except ValueError as error:
        is_python_limit = "int_max_str_digits" in str(error)
        raise ValueError("an integer has too many digits" if is_python_limit else str(error)) from None


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
