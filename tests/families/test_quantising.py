"""`qwartet quantize` of Qwen2 and Qwen3: parts of qkv as published, and the logits of stock transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, VocabularyError
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import layout_of
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize import block
from qwartet.quantize.calibration import load_calibration
from qwartet.quantize.hessian import HessianAccumulator
from qwartet.quantize.pipeline import QuantizeEvent, quantize_checkpoint
from qwartet.quantize.solver import gptq_quantize
from tests.families.stock import NUM_LAYERS, TOLERANCE, VOCAB_SIZE, new_model, prompt, save, stock_logits
from tests.quantize.test_pipeline import Stopped, assert_same_files
from tests.tokenizer.hf_files import hf_tokenizer, small_content, write_tokenizer

INT4 = GptqConfig(bits=4, group_size=64, desc_act=False, sym=True)
CASES = ["qwen2", "qwen2 tied", "qwen3 tied", "qwen3 biases"]
CALIBRATION = [
    torch.randint(VOCAB_SIZE, (60,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(12)
]
IDS = prompt(60)


@torch.inference_mode()
def logits(directory: Path) -> Tensor:
    network = load_model(directory, dtype="fp32")
    return network(dense_batch([IDS], network.config.position))


def kl(p: Tensor, q: Tensor) -> float:
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def rounded_to_fp16(model: Any, directory: Path) -> Path:
    """A checkpoint whose tensors fp16 holds exactly, so that what is not quantised stays as it is."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return save(model, directory)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("desc_act", [False, True])
def test_the_result_is_stock_transformers_with_the_dequantised_weights(
    tmp_path: Path, case: str, desc_act: bool
) -> None:
    model = new_model(case)
    source = rounded_to_fp16(model, tmp_path / "float")
    events = quantize_checkpoint(source, tmp_path / "int4", replace(INT4, desc_act=desc_act), CALIBRATION)
    assert len(events) == 5 * NUM_LAYERS
    stored, state = load_file(tmp_path / "int4/model.safetensors"), model.state_dict()
    names = [name.removesuffix(".weight") for name in state if "_proj.weight" in name]
    assert {name for name in stored if name.endswith(".qweight")} == {f"{name}.qweight" for name in names}
    for name in names:
        leaves = ("qweight", "qzeros", "scales", "g_idx", "bias")
        tensors = {leaf: stored[f"{name}.{leaf}"] for leaf in leaves}
        weight = QuantizedWeight.from_tensors(tensors, replace(INT4, desc_act=desc_act), name=name, path="file")
        if f"{name}.bias" in state:
            assert torch.equal(tensors["bias"].float(), state[f"{name}.bias"])
        else:
            assert not tensors["bias"].any(), "AutoGPTQ gives every linear a bias"
        state[f"{name}.weight"] = weight.dequantize()
    twin = type(model)(model.config).eval()
    twin.load_state_dict(state)
    with torch.inference_mode():
        torch.testing.assert_close(logits(tmp_path / "int4"), stock_logits(twin, IDS), rtol=0, atol=TOLERANCE)
        distance = kl(stock_logits(model, IDS), logits(tmp_path / "int4"))
        assert distance < 0.85 * kl_of_rounding(model)  # measured: 0.52 to 0.79
    assert ("lm_head.weight" in stored) is ("tied" not in case)
    assert inspect_checkpoint(tmp_path / "int4").problems == []


def kl_of_rounding(model: Any) -> float:
    """The distance of the same model whose linears are only rounded."""
    twin = type(model)(model.config).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in [name for name in state if "_proj.weight" in name]:
        hessian = torch.eye(state[name].shape[1])
        found = gptq_quantize(state[name], hessian, bits=4, group_size=64, sym=True, desc_act=False)
        state[name] = found.weight.dequantize()
    twin.load_state_dict(state)
    return kl(stock_logits(model, IDS), stock_logits(twin, IDS))


def test_the_parts_of_qkv_are_solved_on_one_hessian_as_if_alone(stock, tmp_path: Path) -> None:
    _model, source = stock("qwen3")
    checkpoint, network = Checkpoint(source), load_model(source, dtype="fp32")
    quantize_checkpoint(source, tmp_path / "int4", INT4, CALIBRATION)
    seen = HessianAccumulator(network.config.hidden_size)
    network.layers[0].attention.qkv.register_forward_pre_hook(lambda _module, inputs: seen.add(inputs[0]))
    with torch.no_grad():
        network(dense_batch(CALIBRATION, network.config.position))
    stored = load_file(tmp_path / "int4/model.safetensors")
    for name, _rows in layout_of(network.config)["layers.0.attention.qkv"].parts:
        alone = gptq_quantize(
            checkpoint.read(f"{name}.weight"), seen.hessian, bits=4, group_size=64, sym=True, desc_act=False
        ).weight
        assert (alone.qweight == stored[f"{name}.qweight"]).float().mean() > 0.99
        assert alone.qweight.shape == stored[f"{name}.qweight"].shape


def test_a_stopped_run_is_resumed_to_the_same_bits(stock, tmp_path: Path, monkeypatch) -> None:
    _model, source = stock("qwen3 biases")
    monkeypatch.setattr(block, "BATCH_TOKENS", 200)
    quantize_checkpoint(source, tmp_path / "straight", INT4, CALIBRATION)

    def stop(event: QuantizeEvent) -> None:
        if event.layer == 2:
            raise Stopped

    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "resumed", INT4, CALIBRATION, on_event=stop)
    events = quantize_checkpoint(source, tmp_path / "resumed", INT4, CALIBRATION)
    assert [event.is_resumed for event in events] == [event.layer < 2 for event in events]
    assert_same_files(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.parametrize("case", ["qwen2", "qwen3 tied"])
def test_config_json_keeps_its_keys_and_names_the_dtype_of_the_floats(stock, tmp_path: Path, case: str) -> None:
    source = stock(case)[1]
    quantize_checkpoint(source, tmp_path / "int4", INT4, CALIBRATION)
    before, after = (json.loads((directory / "config.json").read_text()) for directory in (source, tmp_path / "int4"))
    changed = {key for key in after if after.get(key) != before.get(key)}
    assert changed == {"dtype", "torch_dtype", "quantization_config"}
    assert after["dtype"] == after["torch_dtype"] == "float16" and list(after) == sorted(after)
    assert not {"bf16", "fp16", "fp32"} & after.keys()


@pytest.mark.parametrize("case", ["qwen2", "qwen3"])
def test_a_conversation_is_encoded_by_the_models_own_tokenizer_whose_files_are_copied(
    copied, tmp_path: Path, case: str
) -> None:
    source = copied(case)
    write_tokenizer(source, small_content(), "{{ 1 }}")
    files = {"special_tokens_map.json": "{}", "chat_template.jinja": "{{ 1 }}", "modeling.py": "raise SystemExit"}
    for name, content in files.items():
        (source / name).write_text(content)
    turns = [{"from": "user", "value": "ab" * 80}, {"from": "assistant", "value": "<|im_end|>"}]
    (tmp_path / "train.json").write_text(json.dumps([{"conversations": turns}, {"text": "ab"}]))
    first, second = load_calibration(tmp_path / "train.json", source, num_samples=9, max_len=500)
    tokenizer = hf_tokenizer(small_content())
    assert second == tokenizer.encode("ab")
    assert tokenizer.decode(first).startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>"
    )
    assert first.count(tokenizer.im_end_id) == 3, "what a turn says is plain text"
    quantize_checkpoint(source, tmp_path / "int4", INT4, [first, second])
    written = {path.name for path in (tmp_path / "int4").iterdir()}
    assert files.keys() - written == {"modeling.py"} and {"tokenizer.json", "tokenizer_config.json"} <= written


def test_a_head_that_differs_from_a_tied_embedding_is_kept(copied, tmp_path: Path) -> None:
    source = copied("qwen2 tied")
    tensors = load_file(source / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    head[3] += 1
    save_file({**tensors, "lm_head.weight": head}, source / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match="differs from the embedding"):
        quantize_checkpoint(source, tmp_path / "int4", INT4, CALIBRATION)
    written = load_file(tmp_path / "int4/model.safetensors")
    assert torch.equal(written["lm_head.weight"], head.half())


def test_text_without_a_tokenizer_is_refused(copied, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(VocabularyError, match="no vocabulary to encode the calibration text"):
        load_calibration(tmp_path / "text.txt", copied("qwen2"), num_samples=1, max_len=10)


def test_a_part_that_cannot_be_packed_is_refused_by_name(tmp_path: Path) -> None:
    source = save(new_model("qwen2", num_key_value_heads=1, head_dim=36), tmp_path / "float")
    with pytest.raises(CheckpointError, match=r"model.layers.0.self_attn.k_proj: a 36 x 128 matrix cannot be packed"):
        quantize_checkpoint(source, tmp_path / "int4", INT4, CALIBRATION)
