"""The process that loads damaged checkpoints: `python -m tests.fuzz.child WORK_DIRECTORY FIRST_SEED COUNT`.

Prints one JSON line before each case and one after it. What loading refuses, inspection must have found as well. An
exception that is no CheckpointError ends the process, as do a signal, a lack of memory and a step of more than five
seconds; the last line then says which case it was.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

from qwartet.errors import CheckpointError
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.generation_config import load_generation_defaults
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from tests.fuzz.mutations import damage
from tests.tiny_checkpoint import write_tiny_checkpoint

MEMORY_BYTES = 2 * 2**30  # above what the process has at its start; the largest lawful rotary table takes half of it
SECONDS = 5
VARIANTS = ({}, {"sharded": True}, {"bits": 4}, {"bits": 4, "sharded": True}, {"bits": 8})
TEXT = "hello 你好\n the weather"


def answer(directory: Path, load_mode: str) -> Tensor:
    """Loads all of a checkpoint and computes with it; the vocabulary must read its own writing."""
    load_generation_defaults(directory)
    tokenizer = TiktokenTokenizer.load(directory)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    model = load_model(directory, dtype="fp32", load_mode=load_mode)
    with torch.inference_mode():
        return model(dense_batch([[1, 2, 300, 4]], model.config.position))


def run_case(seed: int, pristine: Path, work: Path, expected: Tensor) -> dict[str, object]:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work)
    kinds, must_keep = damage(work, seed)
    print(json.dumps({"begins": seed, "kinds": kinds}), flush=True)
    signal.alarm(SECONDS)
    inspection = inspect_checkpoint(work)
    findings = [*inspection.problems, *inspection.warnings]  # without a vocabulary there is only a warning
    signal.alarm(SECONDS)
    try:
        logits = answer(work, ("mmap", "pread")[seed % 2])
    except CheckpointError as error:
        is_sound = bool(findings) and all("\n" not in text for text in (*findings, str(error)))
        return {"kinds": kinds, "outcome": "refused", "is_allowed": is_sound, "error": str(error)}
    finally:
        signal.alarm(0)
    same = torch.equal(logits, expected)
    return {"kinds": kinds, "outcome": "same" if same else "other", "is_allowed": same or not must_keep}


def main() -> None:
    work, first_seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    directories = [write_tiny_checkpoint(work / f"pristine{i}", **variant) for i, variant in enumerate(VARIANTS)]
    expected = [answer(directory, "mmap") for directory in directories]
    status = Path("/proc/self/statm").read_text(encoding="ascii")
    limit = int(status.split()[0]) * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for seed in range(first_seed, first_seed + count):
        which = seed % len(VARIANTS)
        print(json.dumps(run_case(seed, directories[which], work / "case", expected[which])), flush=True)


if __name__ == "__main__":
    main()
