"""The engine at random schedules, for hours: arrivals, aborts, preemption, prefixes, chunks, speculation, small caches.

    python -m tests.engine.soak [--count 100000] [--seed 0] [--processes CORES]           (make soak)

A case is a pure function of its number: `--seed N --count 1` runs case N again. The first case that is not the oracle's
ends the run, with all that it was made of.
"""

from __future__ import annotations

import argparse
import os
import traceback
from collections import Counter
from multiprocessing import get_context

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are tiny; before torch is imported

from rich.progress import track

from tests.engine.schedules import play

COUNT = 100_000
_CHUNK = 10  # cases that a process takes at once


def run_case(number: int) -> Counter[str] | str:
    """What happened in a case, or what was wrong with it."""
    try:
        return play(number)
    except Exception as error:
        repeat = f"python -m tests.engine.soak --seed {number} --count 1"
        return f"{''.join(traceback.format_exception(error))}\nto see it again: {repeat}"


def main() -> int:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    numbers = range(options.seed, options.seed + options.count)
    seen: Counter[str] = Counter()
    with get_context("spawn").Pool(options.processes) as pool:
        results = pool.imap(run_case, numbers, chunksize=_CHUNK)
        for result in track(results, total=options.count, description="random schedules"):
            if isinstance(result, str):
                print(result)
                return 1
            seen.update(result)
    print(f"{options.count} random schedules give the oracle's text")
    print(", ".join(f"{name} {number}" for name, number in sorted(seen.items())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
