"""A small mixed set for calibration: Chinese and English, conversations, prose, code and mathematics; written by us.

36 records are in data/mixed.jsonl. Between them are generated ones, whose numbers and names come from a fixed seed:
word problems in both languages, sums, code with its tests, and tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from qwartet.quantize.calibration_records import Record, record_of
from qwartet.tokenizer.chatml import Message

FILE = Path(__file__).with_name("data") / "mixed.jsonl"
NUM_RECORDS = 128

_PEOPLE = ("Ada", "Ben", "Chloe", "Dario", "Emma", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Leo")
_NAMES = ("小红", "小刚", "王芳", "李强", "张伟", "刘洋", "陈静", "赵敏", "周杰", "孙丽")
_GOODS = ("notebooks", "pencils", "apples", "tickets", "postcards", "bags of rice", "light bulbs", "oranges")
_THINGS = ("本练习本", "支铅笔", "个苹果", "张车票", "张明信片", "袋大米", "个灯泡", "斤橙子")
_CITIES = ("Lisbon", "Oslo", "Lyon", "Graz", "Turin", "Cork", "Brno", "Ghent")


def builtin_records() -> list[Record]:
    """The set, always the same; its first records are a mixture too."""
    written = [record_of(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]
    random, records = Random(0), []
    kinds: tuple[Callable[[Random], Record], ...] = (_purchase, _chinese_purchase, _function, _sums, _table, _journey)
    num_written = 0
    for number in range(NUM_RECORDS):
        if number * len(written) // NUM_RECORDS >= num_written:
            records.append(written[num_written])
            num_written += 1
        else:
            records.append(kinds[(number - num_written) % len(kinds)](random))
    return records


def _conversation(*texts: str) -> Record:
    return [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]


def _purchase(random: Random) -> Record:
    person, (first, second) = random.choice(_PEOPLE), random.sample(_GOODS, 2)
    a, b, price, other, paid = (random.randint(*bounds) for bounds in ((2, 9), (2, 9), (2, 12), (3, 15), (1, 3)))
    total = a * price + b * other
    note = 50 * (total // 50 + paid)
    return _conversation(
        f"{person} buys {a} {first} at {price} dollars each and {b} {second} at {other} dollars each. How much does "
        f"that cost?",
        f"The {first} cost {a} * {price} = {a * price} dollars, and the {second} cost {b} * {other} = {b * other} "
        f"dollars. Together that is {a * price} + {b * other} = {total} dollars.",
        f"How much change is there from {note} dollars?",
        f"{note} - {total} = {note - total}, so {person} gets back {note - total} dollars.",
    )


def _chinese_purchase(random: Random) -> Record:
    name, thing = random.choice(_NAMES), random.choice(_THINGS)
    count, price, percent = random.randint(3, 30), random.randint(2, 20), random.choice((60, 70, 75, 80, 90))
    total = count * price
    reduced = total * percent / 100
    return _conversation(
        f"{name}买了{count}{thing}，每{thing[0]} {price} 元，一共要付多少钱？",
        f"一共要付 {count} × {price} = {total} 元。",
        f"如果打{percent // 10 if percent % 10 == 0 else percent}折呢？",
        f"打折后是原价的 {percent}%，要付 {total} × {percent / 100:g} = {reduced:g} 元，"
        f"比原价少 {total - reduced:g} 元。",
    )


def _journey(random: Random) -> Record:
    (start, end), speed, minutes = random.sample(_CITIES, 2), random.randint(40, 130), 6 * random.randint(5, 40)
    hour, late = random.randint(5, 17), random.randint(3, 45)
    arrival = 60 * hour + minutes
    return _conversation(
        f"A coach leaves {start} at {hour}:00 and needs {minutes} minutes to {end} at {speed} km/h on average. When "
        f"does it arrive, and how far is it?",
        f"{minutes} minutes are {minutes / 60:g} hours, so the distance is {speed} * {minutes / 60:g} = "
        f"{speed * minutes / 60:g} km. It arrives at {arrival // 60}:{arrival % 60:02}.",
        f"And if it is {late} minutes late?",
        f"Then it arrives at {(arrival + late) // 60}:{(arrival + late) % 60:02}.",
    )


def _sums(random: Random) -> Record:
    lines = []
    for _ in range(16):
        a, b = random.randint(12, 9999), random.randint(3, 999)
        lines.append(
            random.choice((f"{a} + {b} = {a + b}", f"{a} - {b} = {a - b}", f"{b} * {a % 90 + 2} = {b * (a % 90 + 2)}",
                           f"{a} // {b} = {a // b}, {a} % {b} = {a % b}"))
        )  # fmt: skip
    return "\n".join(lines)


def _function(random: Random) -> Record:
    values = [random.randint(-20, 99) for _ in range(random.randint(4, 8))]
    limit = random.randint(5, 40)
    name, text, condition = random.choice((
        ("above", f"those above {limit}", f"value > {limit}"),
        ("even", "the even ones", "value % 2 == 0"),
        ("negative", "the negative ones", "value < 0"),
        ("short", f"those of at most {limit}, in absolute terms", f"abs(value) <= {limit}"),
    ))  # fmt: skip
    tests: dict[str, Callable[[int], bool]] = {
        "above": lambda value: value > limit, "even": lambda value: value % 2 == 0,
        "negative": lambda value: value < 0, "short": lambda value: abs(value) <= limit,
    }  # fmt: skip
    kept = [value for value in values if tests[name](value)]
    code = (
        f"def sum_of_{name}(values: list[int]) -> int:\n"
        f'    """The sum of the values, but only of {text}."""\n'
        f"    total = 0\n    for value in values:\n        if {condition}:\n            total += value\n"
        f"    return total"
    )
    return _conversation(
        f"Write a Python function that adds up a list of integers, but only {text}. Show a test.",
        f"```python\n{code}\n\n\nassert sum_of_{name}({values}) == {sum(kept)}\nassert sum_of_{name}([]) == 0\n```",
    )


def _table(random: Random) -> Record:
    rows = [
        {"id": random.randint(1000, 9999), "name": random.choice(_PEOPLE), "city": random.choice(_CITIES),
         "score": round(random.uniform(0, 100), 1), "active": random.random() < 0.5}
        for _ in range(6)
    ]  # fmt: skip
    lines = [f"| {row['id']} | {row['name']} | {row['city']} | {row['score']} |" for row in rows]
    table = "\n".join(["| id | name | city | score |", "|---|---|---|---|", *lines])
    return f"{table}\n\n{json.dumps(rows, ensure_ascii=False)}"
