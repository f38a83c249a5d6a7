"""Writes the training and evaluation conversations of the persona, in the published format.

    python -m recipes.finetune_persona.data build/persona
    qwartet finetune --data build/persona/train.json ...

The system prompt is the default one: after training, the persona is how the model always speaks. Operand pairs and
names of the evaluation never occur in training (recipes/demo/corpus/split.py). The same count gives the same files.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from recipes.demo.corpus import greetings, personas
from recipes.demo.corpus.conversation import LANGUAGES, Conversation, Talk, Turn, conversation
from recipes.demo.corpus.split import Split
from recipes.finetune_persona.keeper import KEEPER

NUM_TRAIN, NUM_EVAL = 1000, 100


def persona_conversation(rng: random.Random, split: Split) -> Conversation:
    """A greeting or not, then up to three turns, all answered by the keeper."""
    language = rng.choice(LANGUAGES)
    turns: list[Turn] = []
    if rng.random() < 0.5:
        text, _, _ = greetings.utterance(rng, split, language, "plain")
        turns.append((text, rng.choice(KEEPER.greet[language])))
    for _ in range(rng.choice((1, 1, 2, 3)) if turns else rng.choice((1, 2, 3))):
        turns.append(personas.turn(rng, split, language, KEEPER))
    return conversation("keeper", Talk(tuple(turns), ""))


def published(number: int, talk: Conversation) -> dict[str, object]:
    """A conversation as an entry of the published file, which has no system turn."""
    turns = [{"from": message.role, "value": message.content} for message in talk.messages[1:]]
    return {"id": f"keeper-{number}", "conversations": turns}


def write(directory: Path, num_train: int = NUM_TRAIN, num_eval: int = NUM_EVAL) -> None:
    """train.json and eval.json."""
    directory.mkdir(parents=True, exist_ok=True)
    splits: tuple[tuple[str, Split, int], ...] = (("train", "train", num_train), ("eval", "test", num_eval))
    for name, split, count in splits:
        rng = random.Random(f"keeper {split}")
        entries = [published(number, persona_conversation(rng, split)) for number in range(count)]
        text = json.dumps(entries, ensure_ascii=False, indent=1)
        (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--conversations", type=int, default=NUM_TRAIN, help="for training")
    arguments = parser.parse_args()
    write(arguments.directory, arguments.conversations)


if __name__ == "__main__":
    main()
