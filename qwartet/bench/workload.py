"""Requests for throughput benchmarks: prompts of random ids, tasks whose text is known, and when each arrives.

    random   ids at random; `shared` of them are the same in all prompts
    edit     a text of ids that count upwards with one in 20 replaced, which the model then writes without the mistakes
    decoys   random ids among pieces that begin like the answer and continue differently: bad for prompt lookup

The last two need a checkpoint of `qwartet synth --counts`, whose most probable id after t is t + 1.
"""

from __future__ import annotations

import random
from typing import Literal

from qwartet.errors import SettingError

Task = Literal["random", "edit", "decoys"]
Arrivals = Literal["all", "fixed", "poisson"]

EDITED = 0.05  # of the ids of a text that is to be edited
DECOY_EVERY = 10  # ids of the answer
FIRST_ID = 1000  # of answers that count upwards
COMMON_IDS = 4096  # every vocabulary has as many
# Common enough to be one token each, with the space before, in every large vocabulary.
_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power hour
game line end member law car city name team minute idea body back parent face others level
"""
WORDS = tuple(_WORDS.split())


def make_prompts(
    task: Task, count: int, length: int, answer: int, num_ids: int, *, shared: int, seed: int
) -> list[list[int]]:
    """`count` prompts of `length` ids below `num_ids`; `answer`: tokens that will be generated.

    SettingError if the lengths do not fit together.
    """
    if not 0 <= shared < length:
        raise SettingError(f"the shared prefix has {shared} tokens, the prompt {length}; it must be shorter")
    if task != "random" and (shared or num_ids < FIRST_ID + 4 * (length + answer)):
        raise SettingError(f"the task {task} has no shared prefix, and needs a vocabulary larger than this model's")
    rng = random.Random(f"workload {task} {seed}")
    if task != "random":
        return [_known_prompt(task, length, answer, num_ids, rng) for _ in range(count)]
    beginning = [rng.randrange(num_ids) for _ in range(shared)]
    return [beginning + [rng.randrange(num_ids) for _ in range(length - shared)] for _ in range(count)]


def make_texts(count: int, num_words: int, *, shared: int, seed: int) -> list[str]:
    """`count` texts of `num_words` words, about a token each, of which the first `shared` are the same in all."""
    places = make_prompts("random", count, num_words, 0, len(WORDS), shared=shared, seed=seed)
    return [" ".join(WORDS[place] for place in prompt) for prompt in places]


def _known_prompt(task: Task, length: int, answer: int, num_ids: int, rng: random.Random) -> list[int]:
    first = rng.randrange(FIRST_ID, num_ids - max(length, answer) - 1)
    if task == "edit":
        text = [first + place if rng.random() >= EDITED else rng.randrange(num_ids) for place in range(length - 1)]
        return [*text, first - 1]
    text = [rng.randrange(num_ids) for _ in range(length - 1)]
    for place in range(0, answer, DECOY_EVERY):
        at = rng.randrange(max(length - 7, 1))
        text[at : at + 3] = range(first + place, first + place + 3)
    return [*text[: length - 1], first - 1]


def arrival_times(arrivals: Arrivals, count: int, rate: float, seed: int) -> list[float]:
    """Seconds after the start at which requests arrive: all at once, evenly, or at random, `rate` of them a second."""
    if arrivals == "all":
        return [0.0] * count
    if not rate > 0:
        raise SettingError(f"the rate is {rate} requests a second; it must be above 0")
    if arrivals == "fixed":
        return [place / rate for place in range(count)]
    rng, now, times = random.Random(f"arrivals {seed}"), 0.0, []
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate)
    return times
