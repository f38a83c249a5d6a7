"""Implausible weights are reported by name, at load and by inspect; plausible ones are not."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from qwartet.checkpoint import weight_values
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weight_values import value_findings
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.families import layout_of, load_config
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from tests.models.broken import edit_tensors, refused, set_tensor, split_file
from tests.tiny_checkpoint import NUM_RANKS, Copy

FILE = "model.safetensors"
BLOCK = "transformer.h.1"
FLOATS = [
    "transformer.wte.weight", "lm_head.weight", "transformer.ln_f.weight", f"{BLOCK}.ln_1.weight",
    f"{BLOCK}.attn.c_attn.weight", f"{BLOCK}.attn.c_attn.bias", f"{BLOCK}.mlp.c_proj.weight",
]  # fmt: skip


def load_in_silence(directory: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(directory)
    found = inspect_checkpoint(directory)
    assert (found.problems, found.warnings) == ([], [])


def warned(directory: Path) -> str:
    """The one warning of a load; inspect says the same of the same tensors."""
    with pytest.warns(CheckpointWarning) as caught:
        load_model(directory)
    assert len(caught) == 1
    found = inspect_checkpoint(directory)
    assert found.warnings == [str(caught[0].message)] and found.problems == []
    return found.warnings[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tensor", FLOATS)
def test_a_value_that_is_not_finite_is_refused_with_its_tensor(checkpoint: Copy, tensor: str, value: float) -> None:
    directory = checkpoint()
    edit_tensors(directory / FILE, lambda tensors: tensors[tensor].view(-1).__setitem__(77, value))
    error = refused(directory, FILE, "1 of ", " values are NaN or infinite; download it again", tensor=tensor)
    assert inspect_checkpoint(directory).problems == [str(error)]


@pytest.mark.parametrize("leaf", ["scales", "bias"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_scale_or_bias_that_is_not_finite_is_refused_with_its_tensor(checkpoint: Copy, leaf: str, bits: int) -> None:
    directory = checkpoint(bits=bits)
    name = f"{BLOCK}.mlp.w1.{leaf}"
    edit_tensors(directory / FILE, lambda tensors: tensors[name].view(-1)[:3].fill_(torch.nan))
    error = refused(directory, FILE, "3 of 128 values are NaN or infinite", tensor=name)
    assert inspect_checkpoint(directory).problems == [str(error)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_floats_are_looked_at_too(checkpoint: Copy, dtype: torch.dtype) -> None:
    directory = checkpoint()

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: tensor.to(dtype) for name, tensor in tensors.items()}
        tensors[FLOATS[-1]][3, 5] = torch.inf

    edit_tensors(directory / FILE, change)
    refused(directory, FILE, "1 of 16384 values are NaN or infinite", tensor=FLOATS[-1])


def test_all_tensors_with_such_values_are_listed_by_inspect(checkpoint: Copy) -> None:
    directory = checkpoint()
    for name in FLOATS:
        edit_tensors(directory / FILE, lambda tensors, name=name: tensors[name].view(-1).__setitem__(0, torch.nan))
    problems = inspect_checkpoint(directory).problems
    assert len(problems) == len(FLOATS) and all(any(name in problem for problem in problems) for name in FLOATS)


def test_rows_of_no_token_may_hold_anything_and_it_is_told(checkpoint: Copy) -> None:
    directory = checkpoint()
    edit_tensors(directory / FILE, lambda tensors: tensors["lm_head.weight"][-1].fill_(torch.nan))
    assert "NaN or infinite values in the last rows (unused or rare tokens): lm_head.weight" in warned(directory)


@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"sharded": True}])
@pytest.mark.parametrize("half", ["first", "second"])
def test_a_file_that_is_half_zeros_is_told_of(checkpoint: Copy, options: dict, half: str) -> None:
    directory = checkpoint(**options)
    file = sorted(directory.glob("*.safetensors"))[0]
    header, data = split_file(file)
    middle = len(data) // 2
    data = bytes(middle) + data[middle:] if half == "first" else data[:middle] + bytes(len(data) - middle)
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with (
        pytest.warns(CheckpointWarning, match="zeros where weights should be: .*; the download may be incomplete"),
        suppress(CheckpointError),  # GPTQ's zeros are checked too
    ):
        load_model(directory)
    assert any("zeros where weights should be" in text for text in inspect_checkpoint(directory).warnings)


@pytest.mark.parametrize(
    ("tensor", "where", "words"),
    [
        (f"{BLOCK}.mlp.w2.weight", slice(64, None), f"{BLOCK}.mlp.w2.weight (50 % to 100 %)"),
        (f"{BLOCK}.mlp.w2.weight", slice(0, 32), f"{BLOCK}.mlp.w2.weight (0 % to 25 %)"),
        (f"{BLOCK}.ln_2.weight", slice(None), f"{BLOCK}.ln_2.weight (all of it)"),
        ("transformer.wte.weight", slice(0, 400), "transformer.wte.weight (0 % to 78 %)"),
        ("lm_head.weight", slice(None), "lm_head.weight (all of it)"),
    ],
)
def test_zeros_are_told_of_with_their_place(checkpoint: Copy, tensor: str, where: slice, words: str) -> None:
    directory = checkpoint()
    edit_tensors(directory / FILE, lambda tensors: tensors[tensor][where].zero_())
    assert words in warned(directory)


def test_long_lists_are_cut(checkpoint: Copy) -> None:
    directory = checkpoint()

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "mlp" in name or "ln_" in name:
                tensor.zero_()

    edit_tensors(directory / FILE, change)
    assert "and 1 more; the download" in warned(directory)


def test_what_a_sound_checkpoint_may_hold_is_not_told_of(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith(".bias"):
                tensor.zero_()  # a linear without one
            elif name.endswith("ln_1.weight"):
                tensor[::2] = 0  # channels that were pruned
            elif name in ("transformer.wte.weight", "lm_head.weight"):
                tensor[NUM_RANKS:] = 0  # special tokens and padding
                tensor[100:200] = 0  # rows of tokens that were pruned

    edit_tensors(directory / FILE, change)
    load_in_silence(directory)


@pytest.mark.parametrize("tensor", [f"{BLOCK}.mlp.w1.weight", f"{BLOCK}.mlp.c_proj.weight"])
def test_pruned_rows_and_columns_are_not_told_of(checkpoint: Copy, tensor: str) -> None:
    directory = checkpoint()

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[tensor][::3] = 0
        tensors[tensor][:, 40:90] = 0

    edit_tensors(directory / FILE, change)
    load_in_silence(directory)


class Large:
    """As if a tensor of this many bytes were large."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(weight_values, "SMALL_BYTES", 1024)
        patch.setattr(weight_values, "STRIDE", 8192)


def findings(directory: Path, *, whole: bool) -> list[str]:
    found = value_findings(Checkpoint(directory), layout_of(load_config(directory)), whole=whole)
    return [finding.info.name for finding in found]


def test_a_load_looks_at_pages_of_large_tensors_and_inspect_at_all(
    checkpoint: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    Large(monkeypatch)
    directory = checkpoint()
    name = f"{BLOCK}.mlp.w1.weight"
    edit_tensors(directory / FILE, lambda tensors: tensors[name].view(-1).__setitem__(3000, torch.nan))
    assert findings(directory, whole=False) == []  # byte 6000 is between the sampled pages
    assert findings(directory, whole=True) == [name]
    edit_tensors(directory / FILE, lambda tensors: tensors[name].view(-1).__setitem__(4096, torch.nan))
    with pytest.raises(CheckpointError, match="2 of 16384 values"):  # one was found, so all are counted
        load_model(directory)
    set_tensor(directory / FILE, name, torch.randn(128, 128).bfloat16().index_fill_(0, torch.arange(32, 96), 0))
    assert findings(directory, whole=False) == findings(directory, whole=True) == [name]


def test_zero_rows_at_the_end_of_an_embedding_do_not_make_a_load_read_it_whole(
    checkpoint: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    Large(monkeypatch)
    directory = checkpoint()
    edit_tensors(directory / FILE, lambda tensors: tensors["transformer.wte.weight"][300:].zero_())
    looked: list[str] = []
    whole = weight_values._look
    monkeypatch.setattr(
        weight_values, "_look", lambda read, info, module: looked.append(info.name) or whole(read, info, module)
    )
    assert findings(directory, whole=False) == [] and "transformer.wte.weight" not in looked
    assert findings(directory, whole=True) == [] and "transformer.wte.weight" in looked
