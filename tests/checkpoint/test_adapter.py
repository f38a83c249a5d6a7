"""A LoRA adapter is read whole, or rejected with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet.checkpoint.adapter import Adapter, read_adapter
from qwartet.errors import CheckpointError, CheckpointWarning
from tests.adapter_files import base_layout, write_adapter
from tests.models.broken import edit_json, edit_tensors, set_tensor

QKV = "base_model.model.transformer.h.0.attn.c_attn.lora_{}.weight"


def read(directory: Path, base: Path) -> Adapter:
    return read_adapter(directory, base_layout(base))


def test_every_linear_gets_its_matrices_and_scale(pristine: Callable[..., Path], tmp_path: Path) -> None:
    base = pristine()
    directory = write_adapter(tmp_path, base, rank=4, alpha=6, dtype=torch.bfloat16)
    adapter = read(directory, base)
    stored = load_file(directory / "adapter_model.safetensors")
    assert adapter.config.base == str(base) and not adapter.replaced
    assert list(adapter.linears)[:2] == ["layers.0.attention.qkv", "layers.0.attention.output"]
    assert len(adapter.linears) == 10
    qkv = adapter.linears["layers.0.attention.qkv"]
    assert torch.equal(qkv.a, stored[QKV.format("A")]) and torch.equal(qkv.b, stored[QKV.format("B")])
    assert (qkv.scale, qkv.rank, qkv.a.dtype) == (1.5, 4, torch.bfloat16)


def test_patterns_and_rslora_give_the_scale_of_peft(pristine: Callable[..., Path], tmp_path: Path) -> None:
    base = pristine()
    directory = write_adapter(tmp_path, base, rank=4, alpha=6, targets=("w1", "w2"), use_rslora=True)
    edit_json(
        directory / "adapter_config.json",
        {"rank_pattern": {"^transformer.h.1.mlp.w1": 2}, "alpha_pattern": {"w2": 10, "mlp.w1": 3}},
    )

    def halve(tensors: dict[str, Tensor]) -> None:
        name = "base_model.model.transformer.h.1.mlp.w1.lora_{}.weight"
        tensors[name.format("A")] = tensors[name.format("A")][:2]
        tensors[name.format("B")] = tensors[name.format("B")][:, :2]

    edit_tensors(directory / "adapter_model.safetensors", halve)
    scales = {name: (one.rank, one.scale) for name, one in read(directory, base).linears.items()}
    assert scales == {
        "layers.0.mlp.up": (4, 3 / 2),
        "layers.0.mlp.gate": (4, 10 / 2),
        "layers.1.mlp.up": (2, 3 / math.sqrt(2)),
        "layers.1.mlp.gate": (4, 10 / 2),
    }


def test_modules_that_were_trained_whole_are_apart(pristine: Callable[..., Path], tmp_path: Path) -> None:
    base = pristine()
    directory = write_adapter(tmp_path, base, targets=("c_attn",), modules_to_save=["wte", "lm_head"])
    whole = torch.randn(512, 128)
    set_tensor(directory / "adapter_model.safetensors", "base_model.model.transformer.wte.weight", whole)
    head = "base_model.model.lm_head.modules_to_save.default.weight"
    set_tensor(directory / "adapter_model.safetensors", head, whole + 1)
    adapter = read(directory, base)
    assert adapter.replaced.keys() == {"embedding", "lm_head"}
    assert torch.equal(adapter.replaced["embedding"], whole) and torch.equal(adapter.replaced["lm_head"], whole + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only 'LORA' is supported"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is True; only False is supported"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "all"}, "bias is 'all'; only 'none' is supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 0}, "r is 0; it must be a whole number from 1 to 4096"),
        ({"r": True}, "r is True"),
        ({"r": 8}, r"c_attn\.lora_A\.weight: its rank is 4, and adapter_config\.json says 8"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'; it must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"use_rslora": 1}, "use_rslora is 1; it must be true or false"),
        ({"rank_pattern": {"(a+)+": 2}}, r"rank_pattern has '\(a\+\)\+', which is not the name of a linear"),
        ({"alpha_pattern": [1]}, r"alpha_pattern is \[1\]; it must be an object"),
        ({"target_modules": [1]}, "target_modules is .* must be a list of names"),
        ({"target_modules": ["c_attn"]}, r"c_proj\.lora_A\.weight: target_modules in .* does not list this linear"),
    ],
    ids=str,
)
def test_configurations_of_other_adapters_are_rejected(
    pristine: Callable[..., Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    directory = write_adapter(tmp_path, pristine())
    edit_json(directory / "adapter_config.json", changes)
    with pytest.raises(CheckpointError, match=message):
        read(directory, pristine())


def _rename(old: str, new: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__setitem__(new, tensors.pop(old))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QKV.format("A")), r"c_attn\.lora_B\.weight: matrix A of this linear is missing"),
        (
            lambda t: [t.pop(QKV.format(one)) for one in "AB"],
            r"matrices of transformer\.h\.0\.attn\.c_attn are",
        ),
        (lambda t: t.clear(), "are missing; the adapter belongs to another base model"),
        (_rename(QKV.format("A"), "x.lora_A.weight"), r"x\.lora_A\.weight: fits no module of this model"),
        (_rename(QKV.format("A"), QKV.format("A").replace("h.0", "h.9")), "another base model"),
        (lambda t: t.update({"base_model.model.transformer.ln_f.weight": torch.zeros(128)}), "fits no module"),
        (
            lambda t: t.update({"base_model.model.transformer.h.0.mlp.w1.lora_magnitude_vector": torch.zeros(128)}),
            "without DoRA",
        ),
        (lambda t: t.update({QKV.format("A"): torch.zeros(4, 64)}), r"shape is \[4, 64\]; this model needs \[4, 128\]"),
        (lambda t: t.update({QKV.format("B"): torch.zeros(384, 3)}), r"its rank is 3"),
        (lambda t: t.update({QKV.format("B"): torch.zeros(384, 4, 1)}), r"shape is \[384, 4, 1\]"),
        (lambda t: t.update({QKV.format("B"): torch.zeros(384, 4, dtype=torch.int8)}), "dtype is I8"),
        (lambda t: t[QKV.format("B")].fill_(math.inf), "1536 of 1536 values are NaN or infinite"),
        (lambda t: t.update({QKV.format("A")[17:]: torch.zeros(4, 128)}), "the same matrix of one module"),
    ],
)
def test_tensors_that_do_not_fit_are_rejected(
    pristine: Callable[..., Path], tmp_path: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    directory = write_adapter(tmp_path, pristine())
    edit_tensors(directory / "adapter_model.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        read(directory, pristine())


def test_pickled_or_absent_weights_and_an_unknown_key(pristine: Callable[..., Path], tmp_path: Path) -> None:
    directory = write_adapter(tmp_path, pristine())
    edit_json(directory / "adapter_config.json", {"sparkle": 3})
    with pytest.warns(CheckpointWarning, match="unknown keys ignored: sparkle"):
        read(directory, pristine())
    edit_json(directory / "adapter_config.json", {}, remove=("sparkle",))
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"holds adapter_model\.bin; .* save the adapter as safetensors"):
        read(directory, pristine())
    (directory / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match="is missing; is this the directory of an adapter"):
        read(directory, pristine())


def test_an_adapter_of_another_base_is_named(pristine: Callable[..., Path], tmp_path: Path) -> None:
    directory = write_adapter(tmp_path, pristine())
    tensors = load_file(directory / "adapter_model.safetensors")
    wider = {name: torch.zeros(one.shape[0] * 2, one.shape[1] * 2) for name, one in tensors.items()}
    save_file(wider, directory / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="another base model"):
        read(directory, pristine())
