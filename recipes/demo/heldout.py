"""Writes held-back conversations to a file, for measurements that read text: one JSON a line.

    python -m recipes.demo.heldout build/heldout.jsonl [--conversations 600] [--seed 0]
    qwartet bench numerics --text build/heldout.jsonl

The mixture is that at the end of training, with names, values and operand pairs that never occur in it
(corpus/split.py); one conversation in a hundred looks something up in a text of several pages.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from recipes.demo.corpus import mixture
from recipes.demo.corpus.conversation import Conversation

LONG_SHARE = 0.01


def held_out(count: int, seed: int = 0) -> Iterator[Conversation]:
    """`count` conversations of the test split; the same for the same seed; a larger count extends a smaller one."""
    rng = random.Random(f"held out {seed}")
    for _ in range(count):
        if rng.random() < LONG_SHARE:
            yield mixture.draw_long(rng, "test")
        else:
            yield mixture.draw(rng, "test", 1.0)


def json_of(conversation: Conversation) -> str:
    """A conversation as a line of the file."""
    messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def main() -> None:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="file to write, for example build/heldout.jsonl")
    parser.add_argument("--conversations", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0, help="which conversations")
    arguments = parser.parse_args()
    lines = [json_of(conversation) + "\n" for conversation in held_out(arguments.conversations, arguments.seed)]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
