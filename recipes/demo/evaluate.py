"""Asks a model the held-back questions and the hand-written prompts, and prints its scores.

    python -m recipes.demo.evaluate [MODEL] [--items 200] [--replies FILE] [--json]

Names, values and operand pairs of the questions never occur in training (corpus/split.py). The earlier
answers of a conversation are given; the model writes the last one. If the last message is the assistant's, it is
continued.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qwartet.tokenizer.chatml import Message, build_prompt
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo.corpus import mixture
from recipes.demo.corpus.conversation import DEFAULT_SYSTEM, Conversation
from recipes.demo.scoring import SCORES

PROMPTS = Path(__file__).with_name("prompts.jsonl")
MAX_NEW_TOKENS = 80
RETRIEVAL_TOKENS = 256  # the longest prompt of the gated retrieval test
LONG_RETRIEVAL_TOKENS = 1500  # and that of the reported one
FLOORS = {"retrieval": 0.9, "arithmetic": 0.8}  # share of right answers that the bundled model must reach

# The kinds of test, and the kind of conversation that each draws from.
TESTS = {
    "greeting": "greeting",
    "persona greeting": "persona",
    "persona switched": "persona",
    "persona name": "persona",
    "persona language": "persona",
    "arithmetic": "arithmetic",
    "choice": "choice",
    "option lookup": "option lookup",
    "retrieval": "retrieval",
    "long retrieval": "long retrieval",
    "memory": "memory",
    "react call": "react",
    "react final": "react",
    "react answer": "react",
    "knowledge": "knowledge",
    "repeat": "repeat",
    "smalltalk": "smalltalk",
    "unknown": "unknown",
    "too hard": "too hard",
    "compliment": "compliment",
}

# What is evaluated: prompts, each a list of messages, and the most new tokens -> one reply for each prompt.
Answer = Callable[[Sequence[Sequence[Message]], int], list[str]]


@dataclass(frozen=True)
class Result:
    """How many questions of a kind were answered correctly, and the mean length of their prompts in tokens."""

    kind: str
    num_items: int
    num_right: int
    mean_prompt_tokens: float

    @property
    def share(self) -> float:
        """Right answers as a share of all."""
        return self.num_right / self.num_items if self.num_items else 0.0


@dataclass(frozen=True)
class Reply:
    """One answered prompt, as it is written to the file of replies; `right` is None if nothing is expected."""

    kind: str
    prompt: str
    reply: str
    right: bool | None


def prompt_messages(conversation: Conversation) -> list[Message]:
    """The conversation without its last answer, or with the given part of it."""
    messages = list(conversation.messages[:-1])
    return [*messages, Message("assistant", conversation.given)] if conversation.given else messages


def prompt_ids(tokenizer: TiktokenTokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a prompt; if the last message is the assistant's, it is continued and no turn is opened."""
    if messages[-1].role != "assistant":
        return build_prompt(tokenizer, messages)
    return build_prompt(tokenizer, messages[:-1]) + tokenizer.encode(messages[-1].content)


def held_back(kind: str, count: int, tokenizer: TiktokenTokenizer, seed: int = 0) -> list[Conversation]:
    """`count` test conversations of a kind in TESTS; the retrieval kinds keep to their length in tokens."""
    rng = random.Random(f"test {seed} {kind}")
    longest = {"retrieval": RETRIEVAL_TOKENS, "long retrieval": LONG_RETRIEVAL_TOKENS}.get(kind)
    items: list[Conversation] = []
    while len(items) < count:
        if kind == "long retrieval":
            conversation = mixture.draw_long(rng, "test")
        else:
            conversation = mixture.draw_one(rng, "test", TESTS[kind])
        is_short = longest is None or len(prompt_ids(tokenizer, prompt_messages(conversation))) <= longest
        if conversation.kind == kind and is_short:
            items.append(conversation)
    return items


def run_tests(
    answer: Answer, tokenizer: TiktokenTokenizer, count: int, seed: int = 0
) -> Iterator[tuple[Result, list[Reply]]]:
    """One result for each kind in TESTS, over `count` conversations, with the replies."""
    for kind in TESTS:
        items = held_back(kind, count, tokenizer, seed)
        prompts = [prompt_messages(item) for item in items]
        texts = answer(prompts, MAX_NEW_TOKENS)
        replies = [
            Reply(kind, _shown(prompt), text, SCORES[kind](item.expect, text))
            for item, prompt, text in zip(items, prompts, texts, strict=True)
        ]
        num_tokens = sum(len(prompt_ids(tokenizer, prompt)) for prompt in prompts)
        num_right = sum(reply.right is True for reply in replies)
        yield Result(kind, len(items), num_right, num_tokens / max(1, len(items))), replies


def run_prompts(answer: Answer, path: Path = PROMPTS) -> list[Reply]:
    """The hand-written prompts and their replies. `expect` is a regular expression that a good reply contains."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = [_messages(entry) for entry in entries]
    texts = answer(prompts, MAX_NEW_TOKENS)
    return [
        Reply(entry["kind"], _shown(prompt), text, _matches(entry.get("expect"), text))
        for entry, prompt, text in zip(entries, prompts, texts, strict=True)
    ]


def _messages(entry: dict[str, str | list[str]]) -> list[Message]:
    """A line of prompts.jsonl: an optional system prompt, and the turns, the user's and the model's alternating."""
    turns = entry["turns"]
    spoken = [Message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(turns)]
    return [Message("system", str(entry.get("system", DEFAULT_SYSTEM))), *spoken]


def _matches(expect: str | None, reply: str) -> bool | None:
    return None if expect is None else re.search(expect, reply, re.IGNORECASE) is not None


def _shown(messages: Sequence[Message]) -> str:
    return "\n".join(f"[{message.role}] {message.content}" for message in messages)


def table(results: Sequence[Result], replies: Sequence[Reply]) -> str:
    """The results as text, one kind a line, then the hand-written prompts by kind."""
    lines = [f"{'held back':<20}{'items':>7}{'tokens':>8}{'right':>8}   floor"]
    for result in results:
        floor = FLOORS.get(result.kind)
        wanted = "" if floor is None else f"   {floor:.0%} {'ok' if result.share >= floor else 'MISSED'}"
        lines.append(
            f"{result.kind:<20}{result.num_items:>7}{result.mean_prompt_tokens:>8.0f}{result.share:>8.1%}{wanted}"
        )
    scored = [reply for reply in replies if reply.right is not None]
    right = Counter(reply.kind for reply in scored if reply.right)
    lines.append(f"\n{'written by hand':<20}{'items':>7}{'':>8}{'right':>8}")
    for kind, count in Counter(reply.kind for reply in scored).items():
        lines.append(f"{kind:<20}{count:>7}{'':>8}{right[kind] / count:>8.1%}")
    total = sum(right.values()) / max(1, len(scored))
    lines.append(f"{'all':<20}{len(scored):>7}{'':>8}{total:>8.1%}   ({len(replies) - len(scored)} more unscored)")
    return "\n".join(lines)


def summary(results: Sequence[Result], replies: Sequence[Reply]) -> dict[str, object]:
    """The results in machine-readable form."""
    scored = [reply for reply in replies if reply.right is not None]
    return {
        "held_back": {result.kind: {**asdict(result), "share": round(result.share, 4)} for result in results},
        "by_hand": {"num_items": len(scored), "num_right": sum(reply.right is True for reply in scored)},
        "passed": all(result.share >= FLOORS[result.kind] for result in results if result.kind in FLOORS),
    }


def llm_answer(model: str | None) -> tuple[Answer, TiktokenTokenizer]:
    """A model (None: the bundled one) as the function to evaluate: greedy, without a repetition penalty."""
    from qwartet.engine.sampling_params import SamplingParams
    from qwartet.llm import LLM

    llm = LLM(model)

    def answer(prompts: Sequence[Sequence[Message]], max_new_tokens: int) -> list[str]:
        params = SamplingParams(max_tokens=max_new_tokens, temperature=0.0)
        completions = llm.generate([prompt_ids(llm.tokenizer, messages) for messages in prompts], params)
        return [completion.text.strip() for completion in completions]

    return answer, llm.tokenizer


def main() -> None:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="directory or hub id; the bundled model if left out")
    parser.add_argument("--items", type=int, default=200, help="held-back questions of each kind")
    parser.add_argument("--seed", type=int, default=0, help="which held-back questions")
    parser.add_argument("--replies", type=Path, help="write every prompt and reply to this file, one JSON a line")
    parser.add_argument("--json", action="store_true", help="print the results as JSON on the last line")
    arguments = parser.parse_args()
    answer, tokenizer = llm_answer(arguments.model)
    tests = list(run_tests(answer, tokenizer, arguments.items, arguments.seed))
    results = [result for result, _ in tests]
    by_hand = run_prompts(answer)
    print(table(results, by_hand))
    if arguments.replies:
        replies = [reply for _, replies in tests for reply in replies] + by_hand
        lines = (json.dumps(asdict(reply), ensure_ascii=False) + "\n" for reply in replies)
        arguments.replies.write_text("".join(lines), encoding="utf-8")
    if arguments.json:
        print(json.dumps(summary(results, by_hand), ensure_ascii=False))


if __name__ == "__main__":
    main()
