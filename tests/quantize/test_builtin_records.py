"""The built-in calibration set: always the same, mixed from the start, and what it says is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from qwartet.quantize.builtin_records import NUM_RECORDS, builtin_records
from qwartet.quantize.calibration import builtin_calibration
from qwartet.quantize.calibration_records import Record
from tests.tokenizer.vocabularies import write_small_vocabulary

RECORDS = builtin_records()
NUMBER = r"\d[\d.]*"
SUM = rf"(?<![\w.*+/-] )(?<![\w.])({NUMBER}(?: (?:[-+*/]|//|%) {NUMBER})+) = ({NUMBER})(?![\d.]| [-+*/])"


def text_of(record: Record) -> str:
    return record if isinstance(record, str) else "\n".join(message.content for message in record)


def is_chinese(record: Record) -> bool:
    return re.search("[\u4e00-\u9fff]", text_of(record)) is not None


def test_the_set_is_always_the_same_and_repeats_nothing() -> None:
    assert builtin_records() == RECORDS and len(RECORDS) == NUM_RECORDS
    assert len(set(map(text_of, RECORDS))) == NUM_RECORDS


def test_its_beginning_is_a_mixture_too() -> None:
    for records in (RECORDS[:8], RECORDS):
        assert {(is_chinese(record), isinstance(record, str)) for record in records} >= {
            (False, False), (False, True), (True, False),
        }  # fmt: skip
        assert any("def " in text_of(record) for record in records)


def sums() -> Iterator[tuple[str, str]]:
    """Every `left = right` of numbers, where right is one number and left does not begin earlier."""
    for record in RECORDS:
        for line in re.split(r"[\n,;。，]", text_of(record).replace("×", "*")):
            yield from re.findall(SUM, line)


def test_every_sum_is_right() -> None:
    found = list(sums())
    assert len(found) > 200
    wrong = [(left, right) for left, right in found if abs(eval(left) - float(right.rstrip("."))) > 5e-4]
    assert wrong == []


def test_every_function_passes_its_tests() -> None:
    blocks = [block for record in RECORDS for block in re.findall(r"```python\n(.*?)```", text_of(record), re.DOTALL)]
    tested = [block for block in blocks if "assert " in block]
    assert len(tested) > 10
    for block in tested:
        exec(block, {})


def test_it_becomes_examples_like_a_file(tmp_path: Path) -> None:
    write_small_vocabulary(tmp_path / "qwen.tiktoken")
    examples = builtin_calibration().examples(tmp_path, num_samples=20, max_len=30)
    assert len(examples) == 20 and max(map(len, examples)) == 30
