"""GPTQ of Qwen2 and Qwen3 as published: the logits are those of transformers with the dequantised weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet import LLM, SamplingParams
from qwartet.checkpoint import weight_cache
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.linear import QuantizedLinear
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.quantizer import fit_group, quantize
from tests.families.stock import TOLERANCE, edit_config, prompt, stock_greedy, stock_logits
from tests.models.broken import edit_tensors

GROUP_SIZE = 64
IDS = prompt(60)
QUANTISED = ["qwen2", "qwen2 tied", "qwen3 tied", "qwen3 biases"]


def quantised(weight: Tensor, bits: int, order: Tensor | None) -> QuantizedWeight:
    """Rounded to nearest in groups of inputs; `order` [K] scatters the inputs over the groups, as desc_act does."""
    place = torch.arange(weight.shape[1]) if order is None else order
    group = (place // GROUP_SIZE).int()
    columns = weight.t().float()  # [K, N]
    codes, scales, zeros = torch.empty_like(columns, dtype=torch.uint8), [], []
    for number in range(int(group.max()) + 1):
        own = group == number
        scale, zero = fit_group(columns[own], bits=bits, sym=True)
        codes[own] = quantize(columns[own], scale.half().float(), zero, bits=bits).to(torch.uint8)
        scales.append(scale)
        zeros.append(zero.to(torch.uint8))
    stacked = torch.stack(scales), torch.stack(zeros)
    return QuantizedWeight.from_codes(codes, *stacked, bits=bits, group_size=GROUP_SIZE, sym=True, g_idx=group)


@pytest.fixture
def make(stock, copied) -> Callable[..., tuple[Any, Path]]:
    """Quantises a copy of a case's checkpoint; also returns the stock model with the weights it stands for."""

    def get(case: str, bits: int, desc_act: bool = False) -> tuple[Any, Path]:
        model, directory = stock(case)[0], copied(case)
        gptq = GptqConfig(bits=bits, group_size=GROUP_SIZE, desc_act=desc_act, sym=True)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        tensors = load_file(directory / "model.safetensors")
        for name in [name for name in tensors if "_proj.weight" in name]:
            weight, module = tensors.pop(name), name.removesuffix(".weight")
            generator = torch.Generator().manual_seed(weight.shape[1])  # of one order where the input is the same
            order = torch.randperm(weight.shape[1], generator=generator) if desc_act else None
            packed = quantised(weight, bits, order)
            state[name] = packed.dequantize()
            bias = tensors.get(f"{module}.bias")
            stored = packed.to_tensors() | ({} if bias is None else {"bias": bias})  # AutoGPTQ writes biases of zeros
            tensors |= {f"{module}.{leaf}": tensor for leaf, tensor in stored.items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
        edit_config(directory, quantization_config=gptq.to_quantization_config())
        twin = type(model)(model.config).eval()
        twin.load_state_dict(state)
        return twin, directory

    return get


@torch.inference_mode()
def logits(directory: Path, dtype: str = "fp32", **settings: Any) -> Tensor:
    network = load_model(directory, dtype=dtype, **settings)
    return network(dense_batch([IDS], network.config.position))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("case", QUANTISED)
def test_logits_are_those_of_the_dequantised_weights_in_transformers(
    make, case: str, bits: int, desc_act: bool
) -> None:
    twin, directory = make(case, bits, desc_act)
    torch.testing.assert_close(logits(directory), stock_logits(twin, IDS), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["qwen2", "qwen3 tied"])
def test_greedy_ids_are_those_of_the_dequantised_weights(make, case: str) -> None:
    twin, directory = make(case, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no tokenizer
        with LLM(directory, dtype="fp32", max_num_batched_tokens=32) as llm:
            found = llm.generate(list(IDS), SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))[0]
    assert list(found.token_ids) == stock_greedy(twin, IDS, 200)


@pytest.mark.parametrize("case", QUANTISED)
def test_zero_biases_of_linears_without_bias_are_left_out(make, case: str) -> None:
    network = load_model(make(case, 4)[1], dtype="fp32")
    biased = {
        name.rpartition(".")[2]
        for name, module in network.named_modules()
        if isinstance(module, QuantizedLinear) and module.prepared.bias is not None
    }
    of_family = {"qkv"} if case.startswith("qwen2") else set()
    assert biased == ({"qkv", "output"} if "biases" in case else of_family)


def test_a_bias_that_is_not_zero_where_there_is_none_is_refused(make) -> None:
    directory = make("qwen2", 4)[1]
    name = "model.layers.1.mlp.down_proj.bias"
    edit_tensors(directory / "model.safetensors", lambda tensors: tensors[name].view(-1)[5:6].fill_(0.5))
    with pytest.raises(CheckpointError, match=rf"{name}: is not zero, but linears of this kind have no bias"):
        load_model(directory)
    assert any(name in problem for problem in inspect_checkpoint(directory).problems)


def test_parts_of_qkv_in_different_orders_are_refused(make) -> None:
    directory = make("qwen2", 4, True)[1]
    name = "model.layers.0.self_attn.k_proj.g_idx"
    edit_tensors(directory / "model.safetensors", lambda tensors: tensors.update({name: tensors[name].flip(0).clone()}))
    with pytest.raises(CheckpointError, match="its parts take the inputs in different orders"):
        load_model(directory, dtype="fp32")


def test_quantize_config_json_alone_is_read_and_must_agree(make) -> None:
    twin, directory = make("qwen2", 8)
    gptq = GptqConfig(bits=8, group_size=GROUP_SIZE, desc_act=False, sym=True)
    (directory / "quantize_config.json").write_text(json.dumps(gptq.to_dict()), encoding="utf-8")
    torch.testing.assert_close(logits(directory), stock_logits(twin, IDS), rtol=0, atol=TOLERANCE)
    edit_config(directory, remove=("quantization_config",))
    torch.testing.assert_close(logits(directory), stock_logits(twin, IDS), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes"])
def test_another_quantisation_is_refused_by_name(copied, method: str) -> None:
    directory = edit_config(copied("qwen3"), quantization_config={"quant_method": method, "bits": 8})
    with pytest.raises(CheckpointError, match=f"quant_method is '{method}'"):
        load_model(directory)


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, "bitsandbytes"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"compression_config": {"format": "pack-quantized"}}, "compressed-tensors"),
    ],
)
def test_another_quantisation_is_known_where_it_has_no_name(copied, changes: dict[str, Any], method: str) -> None:
    directory = edit_config(copied("qwen3"), **changes)
    with pytest.raises(CheckpointError, match=f"quant_method is '{method}'; only 'gptq' and 'awq' are supported"):
        load_model(directory)


@pytest.mark.parametrize(
    "name",
    ["self_attn.q_norm.weight", "mlp.experts.0.up_proj.weight", "mlp.shared_expert_gate.weight", "mlp.gate.bias"],
)
def test_weights_of_another_network_in_every_layer_are_refused(copied, name: str) -> None:
    directory = copied("qwen2")
    more = {f"model.layers.{layer}.{name}": torch.ones(32) for layer in range(3)}
    edit_tensors(directory / "model.safetensors", lambda tensors: tensors.update(more))
    with pytest.raises(CheckpointError, match=rf"every layer holds weights that this model does not use: .*{name}"):
        load_model(directory)
    assert any("every layer holds" in problem for problem in inspect_checkpoint(directory).problems)
    edit_tensors(directory / "model.safetensors", lambda tensors: tensors.pop(f"model.layers.2.{name}"))
    with pytest.warns(CheckpointWarning, match="tensors that this model does not use, ignored"):
        load_model(directory)


def test_weights_of_another_kind_are_refused_with_what_to_use(copied) -> None:
    directory = copied("qwen3")
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(
        directory / "model.safetensors", lambda tensors: tensors.update({name: tensors[name].to(torch.float8_e4m3fn)})
    )
    with pytest.raises(CheckpointError, match=r"dtype is F8_E4M3; .*; use a checkpoint with float weights, or one"):
        load_model(directory)


@pytest.mark.parametrize("case", QUANTISED)
def test_the_weight_cache_gives_the_same_bits(make, case: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    directory = make(case, 4)[1]
    expected = logits(directory, "bf16", weight_cache=False)
    for _start in range(2):  # the second one maps the cache
        assert torch.equal(logits(directory, "bf16"), expected)


@pytest.mark.parametrize("case", QUANTISED)
def test_inspection_finds_nothing_wrong(make, case: str) -> None:
    found = inspect_checkpoint(make(case, 4)[1])
    assert found.problems == [] and found.quantization is not None
    assert found.quantization["num_sound_linears"] == found.quantization["num_linears"] == 15
