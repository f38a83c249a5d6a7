"""Writes held-back questions of the bundled model's kind in the published layouts of benchmarks.

    python -m recipes.demo.benchmarks build/demo-data
    qwartet evaluate qwartet/demo --data build/demo-data --tasks gsm8k,tools

A model of this size is at chance on the published questions. These are what it can do: sums in GSM8K's layout, ReAct
prompts in that of the tool benchmark, and hay for a needle. Names, values and operand pairs never occur in training
(corpus/split.py). The same count gives the same files.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from recipes.demo.corpus import mixture
from recipes.demo.corpus.conversation import Conversation
from recipes.demo.corpus.filler import sentences

NUM_ITEMS = 1000
NUM_HAY_SENTENCES = 400


def questions(kind: str, count: int, keeps: str) -> Iterator[Conversation]:
    """Different held-back conversations of one turn, of a kind of test (`mixture`) and the kind it turned out to be."""
    rng = random.Random(f"benchmark {kind} {keeps}")
    seen: set[str] = set()
    while len(seen) < count:
        conversation = mixture.draw_one(rng, "test", kind)
        roles = [message.role for message in conversation.messages]
        asked = conversation.messages[-2].content
        if conversation.kind == keeps and roles == ["system", "user", "assistant"] and asked not in seen:
            seen.add(asked)
            yield conversation


def sums(count: int) -> Iterator[dict[str, str]]:
    """Sums and differences in GSM8K's layout."""
    for conversation in questions("arithmetic", count, "arithmetic"):
        *_, asked, answer = conversation.messages
        yield {"question": asked.content, "answer": f"{answer.content}\n#### {conversation.expect}"}


def tool_prompts(count: int, keeps: str) -> Iterator[dict[str, str]]:
    """ReAct prompts with the published benchmark's fields: "react call" needs a tool, "react answer" does not."""
    for conversation in questions("react", count, keeps):
        *_, asked, answer = conversation.messages
        yield {"prompt": asked.content, "response": answer.content}


def hay(count: int) -> str:
    """Sentences without facts."""
    rng = random.Random("hay")
    return " ".join(sentence for _ in range(count) for sentence in sentences(rng, "en", 1))


def write(directory: Path, count: int = NUM_ITEMS) -> None:
    """All files."""
    _write_lines(directory / "gsm8k" / "test.jsonl", sums(count))
    for group, keeps in (("positive", "react call"), ("negative", "react answer")):
        rows = tool_prompts(count // 2, keeps)
        _write_lines(directory / "tools" / f"exam_plugin_v20231206_react_{group}.jsonl", rows)
    (directory / "hay.txt").write_text(hay(NUM_HAY_SENTENCES) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--items", type=int, default=NUM_ITEMS, help="sums; half as many prompts of each kind of tools")
    arguments = parser.parse_args()
    write(arguments.directory, arguments.items)


if __name__ == "__main__":
    main()
