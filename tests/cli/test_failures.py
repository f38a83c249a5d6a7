"""Which exceptions are the user's to mend, and the line about them."""

from __future__ import annotations

import errno

import pytest
import torch

from qwartet.cli.failures import message
from qwartet.errors import CheckpointError, ModelNotFoundError, is_out_of_memory


def test_an_error_of_qwartet_speaks_for_itself() -> None:
    assert message(ModelNotFoundError("x: no such directory; look again")) == "x: no such directory; look again"
    assert message(CheckpointError("a/config.json", "is empty", hint="fetch it again")) == (
        "a/config.json: is empty; fetch it again"
    )


def test_an_allocation_that_torch_refuses_is_told_with_its_size() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    text = message(caught.value)
    assert text is not None and "\n" not in text
    assert text.startswith("out of memory (you tried to allocate 1152921504606846976 bytes)")
    assert "--max-model-len" in text


def test_memory_errors_of_python_and_of_a_gpu_count_too() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert message(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")) is not None


def test_the_system_s_errors_name_the_file() -> None:
    text = message(OSError(errno.EACCES, "Permission denied", "/a/b"))
    assert text is not None and text.startswith("/a/b: Permission denied; ")


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2"), KeyError("x"), AssertionError("a block is free twice")]
)
def test_everything_else_is_a_bug(error: Exception) -> None:
    assert message(error) is None
