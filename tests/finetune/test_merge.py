"""An adapter merged into its base: stock PEFT's result, in the base's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwartet.errors import CheckpointError, SettingError
from qwartet.finetune.merge import base_of, merge
from qwartet.models.load import open_checkpoint
from tests.adapter_files import write_adapter
from tests.tiny_checkpoint import Copy


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("sharded", [False, True])
def test_the_result_is_w_plus_scale_b_a_rounded_once_in_the_files_of_the_base(
    pristine: Copy, tmp_path: Path, sharded: bool
) -> None:
    base = pristine(sharded=sharded)
    adapter = write_adapter(tmp_path / "adapter", base, rank=4, alpha=8)
    result = merge(adapter, base, tmp_path / "merged")
    names = {path.name for path in base.iterdir()}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names == set(result.files)
    before, after, matrices = tensors_of(base), tensors_of(tmp_path / "merged"), tensors_of(adapter)
    for name, tensor in before.items():
        a = matrices.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        if a is None:
            assert after[name].equal(tensor)
        else:
            b = matrices[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"]
            assert after[name].equal((tensor.float() + 2 * (b @ a)).to(torch.bfloat16))
    assert result.linears == 10 and result.replaced == 0
    for file in ("config.json", "qwen.tiktoken"):
        assert (tmp_path / "merged" / file).stat().st_size > 0
    open_checkpoint(tmp_path / "merged")


def test_it_equals_stock_peft(pristine: Copy, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from tests.hf.loaded import load

    base = pristine()
    adapter = write_adapter(tmp_path / "adapter", base)
    merge(adapter, base, tmp_path / "merged")
    stock = peft.PeftModel.from_pretrained(load(base, dtype="float32"), adapter).merge_and_unload()
    ours = tensors_of(tmp_path / "merged")
    for name, tensor in stock.state_dict().items():
        torch.testing.assert_close(ours[name].float(), tensor, rtol=2**-8, atol=1e-6)


def test_a_module_that_was_trained_whole_replaces_the_bases(pristine: Copy, tmp_path: Path) -> None:
    base = pristine()
    adapter = write_adapter(tmp_path / "adapter", base, modules_to_save=["wte"])
    file = adapter / "adapter_model.safetensors"
    table = torch.randn(512, 128).to(torch.bfloat16).float()
    save_file(load_file(file) | {"base_model.model.transformer.wte.weight": table}, file)
    assert merge(adapter, base, tmp_path / "merged").replaced == 1
    assert tensors_of(tmp_path / "merged")["transformer.wte.weight"].float().equal(table)


def test_what_cannot_be_merged_is_refused_with_the_way_out(pristine: Copy, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", pristine())
    with pytest.raises(SettingError, match="merge into the float model of the same name, then quantise the result"):
        merge(adapter, pristine(bits=4), tmp_path / "merged")
    with pytest.raises(SettingError, match="exists; choose another name"):
        merge(adapter, pristine(), adapter)
    with pytest.raises(CheckpointError, match="holds no adapter"):
        base_of(pristine())
    huge = write_adapter(tmp_path / "huge", pristine(), alpha=1e6, std=1e18)
    with pytest.raises(CheckpointError, match=r"the merged weight reaches .*; check the adapter's scale"):
        merge(huge, pristine(), tmp_path / "merged")
    file = adapter / "adapter_model.safetensors"
    torch.save(load_file(file), adapter / "adapter_model.bin")
    file.unlink()
    with pytest.raises(CheckpointError, match="save the adapter as safetensors"):
        merge(adapter, pristine(), tmp_path / "merged")
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merged*"))
