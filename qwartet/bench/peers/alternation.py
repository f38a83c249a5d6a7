"""Ours and a peer in alternation: A B A B.

The two runs of a pair are adjacent in time, so their ratio holds even if the speed of the machine drifts.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from qwartet.errors import SettingError


@dataclass(frozen=True)
class Speed:
    """One measurement, in tokens a second."""

    prefill_tok_s: float
    decode_tok_s: float

    def __truediv__(self, other: Speed) -> Speed:
        """How many times as fast as another; prefill and decode separately."""
        return Speed(self.prefill_tok_s / other.prefill_tok_s, self.decode_tok_s / other.decode_tok_s)


def take_turns(
    sides: Mapping[str, Callable[[], Speed]], rounds: int, on_run: Callable[[int, str], None] | None = None
) -> dict[str, list[Speed]]:
    """Measures each side in each round, in the order of `sides`; on_run is called with the round, from 0, and the side.

    SettingError for fewer rounds than one.
    """
    if rounds < 1:
        raise SettingError(f"rounds is {rounds}; it must be at least 1")
    measured: dict[str, list[Speed]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, measure in sides.items():
            if on_run is not None:
                on_run(number, side)
            measured[side].append(measure())
    return measured


def paired_ratios(ours: Sequence[Speed], peer: Sequence[Speed]) -> list[Speed]:
    """Ours over the peer's, round by round."""
    return [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]


def median_speed(speeds: Sequence[Speed]) -> Speed:
    """The median of prefill and of decode, separately; of ratios as well."""
    return Speed(median(speed.prefill_tok_s for speed in speeds), median(speed.decode_tok_s for speed in speeds))


def measure_command(command: str) -> Speed:
    """Runs a command line whose last line of output is one JSON object with prefill_tok_s and decode_tok_s.

    It is not run through a shell. SettingError when it fails or prints something else.
    """
    lines = run_to_end(shlex.split(command)).splitlines()
    try:
        report = json.loads(lines[-1])
        return Speed(positive(report["prefill_tok_s"]), positive(report["decode_tok_s"]))
    except (IndexError, ValueError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SettingError(
            f"{command}: its last line of output is not a JSON object with prefill_tok_s and decode_tok_s ({reason}); "
            "run it by itself to see what it prints"
        ) from None


def run_to_end(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    shows_stderr: bool = False,
    good_codes: Sequence[int] = (0,),
    name: str | None = None,
) -> str:
    """What a program prints on stdout; SettingError, with its last line on stderr, when it cannot start or fails.

    `environment` adds to the variables of this process, `shows_stderr` leaves the program's stderr to the user, and
    `good_codes` are the exit codes of a success. Errors call it `name`, by default its first argument.
    """
    if not arguments:
        raise SettingError("the command is empty; it must be a program and its arguments")
    try:
        result = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=None if shows_stderr else subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except OSError as error:
        raise SettingError(f"{arguments[0]} cannot be started ({error.strerror}); check the path") from None
    if result.returncode not in good_codes:
        lines = [line.strip() for line in (result.stderr or "").splitlines() if line.strip()]
        said = "see above" if shows_stderr else lines[-1] if lines else "nothing on stderr"
        raise SettingError(
            f"{name or arguments[0]} exited with {result.returncode} ({said}); run it by itself to see why"
        )
    return result.stdout


def positive(value: Any) -> float:
    """A finite number above 0; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is not a speed")
    return float(value)
