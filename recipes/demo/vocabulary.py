"""Learns the bundled model's vocabulary from a sample of its corpus and writes it in `.tiktoken` format.

python -m recipes.demo.vocabulary OUTPUT.tiktoken
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from qwartet.tokenizer.tiktoken_tokenizer import PATTERN
from qwartet.tokenizer.vocabulary import Vocabulary
from recipes.demo.byte_pairs import count_words, learn
from recipes.demo.corpus import mixture

NUM_RANKS = 4096
NUM_CONVERSATIONS = 60_000


def sample(num_conversations: int, seed: int) -> Iterator[str]:
    """The texts of training conversations, from the start of the curriculum to its end."""
    rng = random.Random(f"vocabulary {seed}")
    for index in range(num_conversations):
        conversation = mixture.draw(rng, "train", index / num_conversations)
        for message in conversation.messages:
            yield message.role
            yield message.content


def build(num_ranks: int = NUM_RANKS, num_conversations: int = NUM_CONVERSATIONS, seed: int = 0) -> Vocabulary:
    """The vocabulary: the same arguments give the same ranks."""
    tokens = learn(count_words(sample(num_conversations, seed), PATTERN), num_ranks)
    return Vocabulary.from_ranks({token: rank for rank, token in enumerate(tokens)})


def main() -> None:
    """Command line: one argument, the file to write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="file to write, for example qwen.tiktoken")
    build().save(parser.parse_args().output)


if __name__ == "__main__":
    main()
