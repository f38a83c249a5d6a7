"""llama.cpp's own benchmarks, run on a GGUF file and read from their JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.bench.peers.alternation import Speed, positive, run_to_end
from qwartet.errors import SettingError

PROMPT_TOKENS = 512
COMPLETION_TOKENS = 64
BATCH_PROMPT_TOKENS = 16
BATCH_COMPLETION_TOKENS = 32
BATCH_SIZES = (1, 4, 8, 16)
_CONTEXT_STEP = 256  # llama.cpp rounds the context of each request up to this


@dataclass(frozen=True)
class LlamaBenchRun:
    """One run of llama-bench: prefill without decode, then decode from an empty context."""

    speed: Speed
    build: str  # number and commit of llama.cpp
    model_bytes: int
    num_parameters: int
    threads: int


@dataclass(frozen=True)
class BatchSpeed:
    """Decoding several requests at once, in tokens a second of all of them together."""

    num_requests: int
    prefill_tok_s: float
    decode_tok_s: float


def run_llama_bench(
    binary: Path,
    model: Path,
    *,
    threads: int,
    prompt_tokens: int = PROMPT_TOKENS,
    completion_tokens: int = COMPLETION_TOKENS,
    repetitions: int = 1,
) -> LlamaBenchRun:
    """Runs llama-bench on the CPU, warm-up included; SettingError when it fails or prints no such results."""
    sizes = ["-p", str(prompt_tokens), "-n", str(completion_tokens), "-r", str(repetitions)]
    command = [str(binary), "-m", str(model), *sizes, "-t", str(threads), "-ngl", "0", "-o", "json"]
    output = run_to_end(command)
    try:
        tests: dict[tuple[int, int], dict[str, Any]] = {
            (test["n_prompt"], test["n_gen"]): test for test in json.loads(output)
        }
        prefill, decode = tests[prompt_tokens, 0], tests[0, completion_tokens]
        return LlamaBenchRun(
            speed=Speed(positive(prefill["avg_ts"]), positive(decode["avg_ts"])),
            build=f"{decode['build_number']} ({decode['build_commit']})",
            model_bytes=int(decode["model_size"]),
            num_parameters=int(decode["model_n_params"]),
            threads=int(decode["n_threads"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable(binary, error) from None


def run_batched_bench(
    binary: Path,
    model: Path,
    *,
    threads: int,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    prompt_tokens: int = BATCH_PROMPT_TOKENS,
    completion_tokens: int = BATCH_COMPLETION_TOKENS,
) -> list[BatchSpeed]:
    """Runs llama-batched-bench on the CPU for several numbers of requests; SettingError as for run_llama_bench."""
    per_request = -(-(prompt_tokens + completion_tokens) // _CONTEXT_STEP) * _CONTEXT_STEP
    sizes = ["-npp", str(prompt_tokens), "-ntg", str(completion_tokens), "-npl", ",".join(map(str, batch_sizes))]
    place = ["-t", str(threads), "-tb", str(threads), "-ngl", "0", "-c", str(per_request * max(batch_sizes))]
    output = run_to_end([str(binary), "-m", str(model), *sizes, *place, "--output-format", "jsonl"])
    try:
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        speeds = [BatchSpeed(int(row["pl"]), positive(row["speed_pp"]), positive(row["speed_tg"])) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable(binary, error) from None
    if [speed.num_requests for speed in speeds] != list(batch_sizes):
        raise _unreadable(binary, f"results for {[speed.num_requests for speed in speeds]} requests")
    return speeds


def _unreadable(binary: Path, reason: object) -> SettingError:
    what = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason
    return SettingError(f"{binary} did not print the expected results ({what}); use a recent build of llama.cpp")
