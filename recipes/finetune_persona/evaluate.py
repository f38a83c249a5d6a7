"""Asks the model with and without the adapter, and prints how often it speaks as the keeper and adds correctly.

python -m recipes.finetune_persona.evaluate build/persona/adapter --data build/persona/eval.json [--json]

voice   answers of held-back conversations that hold the persona's mark; earlier turns are given
sums    held-back sums whose result is in the answer: what the model could do before, it should still do
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from qwartet import DEMO, LLM
from qwartet.engine.sampling_params import SamplingParams
from qwartet.tokenizer.chatml import DEFAULT_SYSTEM, Message, build_prompt
from recipes.demo.corpus import arithmetic
from recipes.demo.corpus.conversation import LANGUAGES
from recipes.demo.scoring import holds_value
from recipes.finetune_persona.keeper import KEEPER

NUM_SUMS = 100
MAX_NEW_TOKENS = 60
ADAPTER = "keeper"
MARK = "|".join(KEEPER.mark.values())


def prompts_of(path: Path) -> list[list[Message]]:
    """The held-back conversations without their last answers."""
    return [
        [
            Message("system", DEFAULT_SYSTEM),
            *(Message(turn["from"], turn["value"]) for turn in entry["conversations"][:-1]),
        ]
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def sums(count: int = NUM_SUMS) -> list[tuple[list[Message], str]]:
    """Questions about held-back operands, and their results."""
    rng = random.Random("keeper sums")
    talks = [arithmetic.talk(rng, "test", rng.choice(LANGUAGES)) for _ in range(count)]
    return [
        ([Message("system", DEFAULT_SYSTEM), Message("user", talk.turns[0][0])], talk.turns[0][1].split(" = ")[1])
        for talk in talks
    ]


def answers(llm: LLM, prompts: Sequence[Sequence[Message]], adapter: str | None) -> list[str]:
    """Greedy answers."""
    params = SamplingParams(max_tokens=MAX_NEW_TOKENS, temperature=0.0, adapter=adapter)
    ids = [build_prompt(llm.tokenizer, prompt) for prompt in prompts]
    return [completion.text.strip() for completion in llm.generate(ids, params)]


def measure(llm: LLM, conversations: Sequence[Sequence[Message]], adapter: str | None) -> dict[str, float]:
    """Shares from 0 to 1: answers in the keeper's voice, and right sums."""
    spoken = answers(llm, conversations, adapter)
    asked = sums()
    results = answers(llm, [prompt for prompt, _ in asked], adapter)
    num_right = sum(holds_value(value, text) for (_, value), text in zip(asked, results, strict=True))
    return {
        "voice": sum(re.search(MARK, text, re.IGNORECASE) is not None for text in spoken) / len(spoken),
        "sums": num_right / len(asked),
    }


def main() -> None:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=Path, help="directory that `qwartet finetune` wrote")
    parser.add_argument("--model", default=DEMO, help="the model that the adapter was trained on")
    parser.add_argument("--data", type=Path, required=True, help="eval.json of recipes.finetune_persona.data")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    conversations = prompts_of(arguments.data)
    llm = LLM(arguments.model, adapters={ADAPTER: arguments.adapter})
    measured = {name: measure(llm, conversations, used) for name, used in (("before", None), ("after", ADAPTER))}
    if arguments.json:
        print(json.dumps(measured))
        return
    print(f"{'':<8}{'voice':>8}{'sums':>8}")
    for name, shares in measured.items():
        print(f"{name:<8}{shares['voice']:>8.0%}{shares['sums']:>8.0%}")


if __name__ == "__main__":
    main()
