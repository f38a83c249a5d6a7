"""Files larger than the memory, and limits of address space: mapped, or refused in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qwartet.checkpoint import safetensors_file
from qwartet.errors import OutOfMemoryError
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from tests.golden_data import REPOSITORY
from tests.models.broken import join_file, logits, split_file
from tests.tiny_checkpoint import Copy


def memory_of_the_machine() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("MemTotal", "SwapTotal")))


@pytest.mark.filterwarnings("ignore:.*tensors that this model does not use")
@pytest.mark.parametrize("bits", [None, 4])
def test_a_file_larger_than_the_memory_is_mapped_and_gives_the_same(checkpoint: Copy, bits) -> None:
    directory = checkpoint(bits=bits)
    expected = logits(directory)
    path = directory / "model.safetensors"
    text, data = split_file(path)
    size = memory_of_the_machine() + 2**33
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [len(data), len(data) + size]}
    join_file(path, json.dumps({**json.loads(text), "transformer.extra": entry}).encode(), data)
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError:
        pytest.skip("this disk holds no sparse file of that size")
    assert torch.equal(logits(directory), expected)
    assert not inspect_checkpoint(directory).problems


def refuse_mapping(*_arguments, **_settings) -> None:
    raise RuntimeError("unable to mmap 123 bytes from file <x>: Cannot allocate memory (12)")


def test_what_torch_does_not_map_is_mapped_without_a_claim_on_memory_and_is_ones_own_copy(
    checkpoint: Copy, monkeypatch
) -> None:
    directory = checkpoint()
    expected, before = logits(directory), (directory / "model.safetensors").read_bytes()
    monkeypatch.setattr(safetensors_file, "safe_open", refuse_mapping)
    assert torch.equal(logits(directory), expected)
    model = load_model(directory, trainable=True)
    with torch.no_grad():
        model.norm.weight.fill_(2)  # as a training step does
    assert bool((model.norm.weight == 2).all()) and (directory / "model.safetensors").read_bytes() == before


def test_what_cannot_be_mapped_at_all_is_said(checkpoint: Copy, monkeypatch) -> None:
    monkeypatch.setattr(safetensors_file, "safe_open", refuse_mapping)
    monkeypatch.setattr(safetensors_file.mmap, "mmap", lambda *_, **__: (_ for _ in ()).throw(OSError(12, "No memory")))
    with pytest.raises(OutOfMemoryError, match=r"model\.safetensors: its \d+ bytes cannot be mapped \(No memory\)"):
        load_model(checkpoint())


LIMITED = """
import resource, sys, warnings
from qwartet.errors import OutOfMemoryError
from qwartet.llm import LLM
from qwartet.models.load import load_model
warnings.simplefilter("ignore")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for more in (1, 8, 40, 120):
    resource.setrlimit(resource.RLIMIT_AS, (used + (more << 20), resource.RLIM_INFINITY))
    try:
        LLM(sys.argv[1], device="cpu", load_mode=sys.argv[2], max_num_seqs=4096)
        outcome = "loaded"
    except OutOfMemoryError as error:
        outcome = "told" if "ulimit -v" in str(error) or "KV cache" in str(error) else str(error)
    except BaseException as error:
        outcome = repr(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(more, outcome)
"""


@pytest.mark.parametrize("load_mode", ["mmap", "pread"])
@pytest.mark.parametrize("bits", [None, 4])
def test_a_limit_of_address_space_ends_in_words(pristine, load_mode: str, bits) -> None:
    command = [sys.executable, "-c", LIMITED, str(pristine(bits=bits)), load_mode]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    outcomes = dict(line.split(" ", 1) for line in ended.stdout.splitlines())
    assert ended.returncode == 0 and set(outcomes.values()) <= {"told", "loaded"}, (outcomes, ended.stderr)
    assert outcomes["1"] == "told"
