"""Datasets as the hub has them, made of benchmark files in their published layout; and such files with made-up rows.

The columns and the names of files are those that public code relies on; the real hub was never asked.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from qwartet.evaluate.data.hub_copies import HUB_COPIES
from qwartet.evaluate.tasks import ceval, leval, mmlu

TEXT = Value("string")
MMLU_FEATURES = Features(
    {"question": TEXT, "subject": TEXT, "choices": List(TEXT), "answer": ClassLabel(names=["A", "B", "C", "D"])}
)
CEVAL_FEATURES = Features(
    {"id": Value("int32"), **dict.fromkeys(("question", "A", "B", "C", "D", "answer", "explanation"), TEXT)}
)
SCRIPT = b"import pathlib\npathlib.Path('script-ran').write_text('')\nraise SystemExit('a script of a dataset ran')\n"
CARD = b"---\nconfigs:\n- config_name: all\n  data_files: /etc/passwd\ntrust_remote_code: true\n---\n"


def parquet(rows: Sequence[Mapping[str, Any]], features: Features | None = None) -> bytes:
    """A table as `datasets` pushes it to the hub."""
    names = list(features) if features else list(rows[0])
    columns = {name: [row[name] for row in rows] for name in names}
    buffer = io.BytesIO()
    Dataset.from_dict(columns, features=features).to_parquet(buffer)
    return buffer.getvalue()


def hub_mmlu(published: Path) -> dict[str, bytes]:
    """Both splits as one table each, subject after subject."""
    found = {}
    for split in ("dev", "test"):
        rows = []
        for subject in sorted(mmlu.SUBJECTS):
            with (published / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as file:
                for question, *choices, answer in csv.reader(file, strict=True):
                    rows.append({"question": question, "subject": subject, "choices": choices, "answer": answer})
        found[f"all/{split}-00000-of-00001.parquet"] = parquet(rows, MMLU_FEATURES)
    return found | {"mmlu.py": SCRIPT, "README.md": CARD, "all/validation-00000-of-00001.parquet": b"unwanted"}


def hub_ceval(published: Path) -> dict[str, bytes]:
    """A table for each subject and split; columns that a split's file lacks are empty."""
    found = {}
    for subject in ceval.SUBJECTS:
        for split in ("dev", "val", "test"):
            with (published / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as file:
                rows = [dict.fromkeys(CEVAL_FEATURES, "") | row for row in csv.DictReader(file, strict=True)]
            for row in rows:
                row["id"] = int(row["id"])
            found[f"{subject}/{split}-00000-of-00001.parquet"] = parquet(rows, CEVAL_FEATURES)
    return found | {"ceval-exam.py": SCRIPT, "README.md": CARD}


def hub_lines(published: Path, name: str, *more: str) -> dict[str, bytes]:
    """JSON lines, gzipped or not, as a table; the dataset's columns stand in another order than the file's fields."""
    content = gzip.decompress(published.read_bytes()) if published.suffix == ".gz" else published.read_bytes()
    rows = [json.loads(line) for line in content.decode().splitlines()]
    table = parquet([{key: row[key] for key in sorted(row)} for row in rows])
    return {name: table, "README.md": CARD, "loader.py": SCRIPT} | dict.fromkeys(more, b"unwanted")


def hub_copy(name: str, published: Path) -> dict[str, bytes]:
    """What the hub has of a benchmark whose published files are in a directory."""
    if name == "mmlu":
        return hub_mmlu(published)
    if name == "ceval":
        return hub_ceval(published)
    if name == "gsm8k":
        table = "main/test-00000-of-00001.parquet"
        return hub_lines(published / "test.jsonl", table, "main/train-00000-of-00001.parquet")
    if name == "humaneval":
        return hub_lines(published / "HumanEval.jsonl.gz", "openai_humaneval/test-00000-of-00001.parquet")
    files = {f"LEval/Exam/{task}.jsonl": (published / f"{task}.jsonl").read_bytes() for task in leval.TASKS}
    return files | {"LEval.py": SCRIPT, "LEval/Generation/news.jsonl": b"unwanted"}


def made_up(name: str, directory: Path) -> Path:
    """Published files with made-up rows, as many as published, with all that a CSV or JSON file can find hard."""
    hard = 'He said "no", twice,\nthen ❤ “yes”; \\n 1,000\t= ½ '
    for split in HUB_COPIES[name].splits:
        num_left = split.num_rows or 3
        for index, file in enumerate(split.files):
            num_rows = num_left // (len(split.files) - index)
            num_left -= num_rows
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [_row(name, split.name, f"{hard}{file} {number}", number) for number in range(num_rows)]
            if path.suffix == ".csv":
                with path.open("w", encoding="utf-8", newline="") as table:
                    writer = csv.writer(table, lineterminator="\n")
                    writer.writerows([list(rows[0])] if name == "ceval" else [])
                    writer.writerows(row.values() for row in rows)
            else:
                content = "".join(json.dumps(row) + "\n" for row in rows).encode()
                path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return directory


def _row(name: str, split: str, text: str, number: int) -> dict[str, Any]:
    if name in ("mmlu", "ceval"):
        options = {"A": "0,1", "B": f'"{number}"', "C": "", "D": "\n"}
        row = {"question": text, **options, "answer": "ABCD"[number % 4]}
        if name == "mmlu":
            return row
        more = {"dev": {"explanation": f"1. {text}"}, "val": {}, "test": {}}[split]
        return {"id": number, **{key: row[key] for key in row if key != "answer" or split != "test"}, **more}
    if name == "gsm8k":
        return {"question": text, "answer": f"{text}\n#### {number}"}
    if name == "humaneval":
        prompt = f'def f(x):\n    """{text}"""\n'
        row = {"task_id": f"HumanEval/{number}", "prompt": prompt, "entry_point": "f"}
        return row | {"canonical_solution": "    return x\n", "test": "def check(candidate):\n    pass\n"}
    output = {"gsm100": f"The answer is {number}", "sci_fi": "True [fact: False]"}.get(split, "A")
    return {"instructions": [text], "outputs": [output], "input": text, "evaluation": "exam", "source": "made up"}
