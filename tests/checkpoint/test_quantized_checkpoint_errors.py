"""Inconsistent GPTQ checkpoints and configs (CK-14 to CK-23): rejected through load_model, or read with a warning.

Errors within one weight are tested with the format (tests/quant_format); these tests show that they reach the user with
the file and the tensor named, before a kernel indexes by the weight.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwartet.errors import CheckpointError, CheckpointWarning, OutOfMemoryError
from qwartet.layers.dense_batch import dense_batch
from qwartet.llm import LLM
from qwartet.models.load import load_model
from tests.models.broken import edit_json, edit_tensors, logits, refused, set_tensor
from tests.tiny_checkpoint import Copy

FILE = "model.safetensors"
LINEAR = "transformer.h.1.mlp.w2"


def edit_both_configs(directory: Path, changes: dict, *, remove: tuple[str, ...] = ()) -> None:
    """Changes config.json and quantize_config.json alike."""
    edit_json(directory / "quantize_config.json", changes, remove=remove)
    embedded = json.loads((directory / "config.json").read_text(encoding="utf-8"))["quantization_config"] | changes
    embedded = {key: value for key, value in embedded.items() if key not in remove}
    edit_json(directory / "config.json", {"quantization_config": embedded})


def change_tensor(directory: Path, leaf: str, change) -> None:
    """Applies a function to one tensor of LINEAR."""
    name = f"{LINEAR}.{leaf}"
    edit_tensors(directory / FILE, lambda tensors: tensors.__setitem__(name, change(tensors[name].clone())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int16, torch.uint8])
def test_ck14_a_qweight_of_another_dtype_is_refused(checkpoint: Copy, dtype: torch.dtype) -> None:
    directory = checkpoint(bits=4)
    change_tensor(directory, "qweight", lambda tensor: tensor.to(dtype))
    words = f"dtype is {str(dtype).removeprefix('torch.')}; GPTQ stores int32"
    refused(directory, FILE, words, tensor=f"{LINEAR}.qweight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("leaf", ["scales", "bias"])
def test_ck15_values_that_are_not_finite_are_counted(checkpoint: Copy, leaf: str, value: float) -> None:
    directory = checkpoint(bits=4)
    change_tensor(directory, leaf, lambda tensor: tensor.index_fill(-1, torch.tensor([3, 5]), value))
    refused(directory, FILE, "2 of 128 values are NaN or infinite", tensor=f"{LINEAR}.{leaf}")


@pytest.mark.parametrize("value", [0.0, -0.01])
def test_ck15_scales_at_or_below_zero_are_told_and_used(checkpoint: Copy, value: float) -> None:
    directory = checkpoint(bits=4)
    change_tensor(directory, "scales", lambda tensor: tensor.index_fill(-1, torch.tensor([3]), value))
    with pytest.warns(CheckpointWarning, match=rf"{LINEAR}\.scales: 1 values are negative or zero"):
        assert logits(directory).isfinite().all()


@pytest.mark.parametrize("bits", [2, 3, 16, 4.0, "4", None])
def test_ck16_other_widths_than_4_and_8_are_refused(checkpoint: Copy, bits: object) -> None:
    directory = checkpoint(bits=4)
    edit_both_configs(directory, {"bits": bits})
    words = "lacks bits" if bits is None else f"bits is {bits!r}; only 4 and 8 are supported"
    refused(directory, "config.json", words)


@pytest.mark.parametrize(("said", "true"), [(8, 4), (4, 8)])
def test_ck17_a_width_that_the_tensors_contradict_is_refused_with_both_numbers(
    checkpoint: Copy, said: int, true: int
) -> None:
    directory = checkpoint(bits=true)
    edit_both_configs(directory, {"bits": said})
    words = f"the config says bits {said}; qzeros and scales imply bits {true}"
    refused(directory, FILE, words, tensor="transformer.h.0.attn.c_attn.qzeros")


@pytest.mark.parametrize("group_size", [32, 64, 100])
def test_ck17_a_group_size_that_the_tensors_contradict_is_refused_with_both_numbers(
    checkpoint: Copy, group_size: int
) -> None:
    directory = checkpoint(bits=4)
    edit_both_configs(directory, {"group_size": group_size})
    words = f"the config says group_size {group_size}, so {-(-128 // group_size)} groups for 128 inputs"
    refused(directory, FILE, words, "the tensor has 1 groups", tensor="transformer.h.0.attn.c_attn.scales")


def test_ck17_one_group_for_all_inputs_can_be_said_as_minus_one(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)
    expected = logits(directory)
    edit_both_configs(directory, {"group_size": -1})
    assert torch.equal(logits(directory), expected)


@pytest.mark.parametrize(("leaf", "shape"), [("qweight", [8, 128]), ("scales", [1, 64]), ("g_idx", [64])])
def test_ck17_tensors_of_one_linear_that_contradict_each_other_are_refused(
    checkpoint: Copy, leaf: str, shape: list[int]
) -> None:
    directory = checkpoint(bits=4)
    change_tensor(directory, leaf, lambda tensor: torch.zeros(shape, dtype=tensor.dtype))
    with pytest.raises(CheckpointError, match=rf"{LINEAR}\.\w+: ") as caught:
        load_model(directory)
    assert caught.value.path == str(directory / FILE)


def test_ck17_a_linear_of_another_size_is_refused_with_the_fields_that_imply_its_own(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)
    wide = load_file(directory / FILE)
    source = "transformer.h.1.attn.c_attn"
    for leaf in ("qweight", "qzeros", "scales", "g_idx"):
        set_tensor(directory / FILE, f"{LINEAR}.{leaf}", wide[f"{source}.{leaf}"].clone())
    for linear in (LINEAR, LINEAR.replace(".1.", ".0.")):
        set_tensor(directory / FILE, f"{linear}.bias", None)
    words = (
        "holds a weight of [384, 128] at 4 bits; config.json implies [128, 128] (intermediate_size / 2, hidden_size)"
    )
    refused(directory, FILE, words, tensor=f"{LINEAR}.qweight")


CONTRADICTIONS = [("bits", 8), ("group_size", 64), ("desc_act", True), ("sym", False), ("checkpoint_format", "gptq_v2")]


@pytest.mark.parametrize(("key", "value"), CONTRADICTIONS)
def test_ck18_two_configs_that_disagree_are_refused_with_both_values(checkpoint: Copy, key: str, value: object) -> None:
    directory = checkpoint(bits=4)
    if key == "checkpoint_format":
        edit_both_configs(directory, {key: "gptq"})
    edit_json(directory / "quantize_config.json", {key: value})
    refused(directory, "quantize_config.json", f"{key} is {value!r} here and ", " in config.json; correct the one")


@pytest.mark.parametrize("keeps", ["config.json", "quantize_config.json"])
def test_either_config_alone_is_enough(checkpoint: Copy, keeps: str) -> None:
    directory = checkpoint(bits=4)
    expected = logits(directory)
    if keeps == "config.json":
        (directory / "quantize_config.json").unlink()
    else:
        edit_json(directory / "config.json", {}, remove=("quantization_config",))
    assert torch.equal(logits(directory), expected)


def test_quantised_weights_without_any_config_are_recognised(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)
    (directory / "quantize_config.json").unlink()
    edit_json(directory / "config.json", {}, remove=("quantization_config",))
    refused(directory, None, "missing tensors: ", "the weights are quantised: fetch the quantize_config.json")


def add_one_to_all_zeros(directory: Path, bits: int) -> None:
    step = sum(1 << lane for lane in range(0, 32, bits))
    edit_tensors(
        directory / FILE,
        lambda tensors: tensors.update({name: t + step for name, t in tensors.items() if name.endswith(".qzeros")}),
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_ck19_symmetric_zeros_stored_as_they_are_are_recognised_by_value(checkpoint: Copy, bits: int) -> None:
    directory = checkpoint(bits=bits)
    expected = logits(directory)
    add_one_to_all_zeros(directory, bits)
    with pytest.warns(CheckpointWarning, match="the stored zeros are those of gptq_v2; read as gptq_v2"):
        assert torch.equal(logits(directory), expected)
    edit_both_configs(directory, {"checkpoint_format": "gptq_v2"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(logits(directory), expected)


def test_ck19_symmetric_zeros_of_neither_format_are_refused(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)
    change_tensor(directory, "qzeros", lambda tensor: tensor.index_fill(-1, torch.tensor([0]), 5))
    refused(directory, FILE, "not all the midpoint of either format version", tensor=f"{LINEAR}.qzeros")


@pytest.mark.parametrize("value", [-1, 1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("desc_act", [False, True])
def test_ck20_a_group_that_does_not_exist_is_refused(checkpoint: Copy, desc_act: bool, value: int) -> None:
    directory = checkpoint(bits=4)
    edit_both_configs(directory, {"desc_act": desc_act})
    change_tensor(directory, "g_idx", lambda tensor: tensor.index_fill(0, torch.tensor([7]), value))
    refused(directory, FILE, "the groups are 0 to 0", tensor=f"{LINEAR}.g_idx")


def test_ck20_an_absent_group_index_is_made_up_without_desc_act_and_refused_with_it(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)
    expected = logits(directory)
    set_tensor(directory / FILE, f"{LINEAR}.g_idx", None)
    assert torch.equal(logits(directory), expected)
    edit_both_configs(directory, {"desc_act": True})
    refused(directory, None, f"missing tensors: {LINEAR}.g_idx")


def test_ck21_a_vocabulary_of_another_size_than_the_embedding_is_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    edit_json(directory / "config.json", {"vocab_size": 576})
    words = "shape is [512, 128]; config.json implies [576, 128] (vocab_size, hidden_size)"
    refused(directory, FILE, words, tensor="transformer.wte.weight")


def with_rows(directory: Path, num_rows: int) -> None:
    """Cuts or pads the embedding and the output layer, with rows that would win every choice."""
    for name in ("transformer.wte.weight", "lm_head.weight"):
        tensor = load_file(directory / FILE)[name]
        padding = torch.full((max(num_rows - 512, 0), 128), 9.0, dtype=tensor.dtype)
        set_tensor(directory / FILE, name, torch.cat([tensor, padding])[:num_rows])
    edit_json(directory / "config.json", {"vocab_size": num_rows})


def test_ck21_fewer_rows_than_the_tokenizer_has_tokens_are_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    with_rows(directory, 448)
    load_model(directory)
    with pytest.raises(
        CheckpointError, match=r"vocab_size is 448, but the tokenizer has 512 tokens; .* different models"
    ):
        LLM(directory)


def test_ck21_padding_rows_are_allowed_and_never_chosen(checkpoint: Copy) -> None:
    directory = checkpoint()
    with_rows(directory, 640)
    llm = LLM(directory, dtype="fp32")
    assert llm.logits([1, 2]).shape == (2, 640)
    completion = llm.generate([[1, 2, 3]], llm.sampling_params(temperature=50.0, max_tokens=60, ignore_eos=True))[0]
    assert max(completion.token_ids) < 512


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama"}, "Qwartet runs dense Qwen text models: model_type"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be between 1 and 1024"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0; it must be an integer"),
        ({"kv_channels": 96}, "1 heads of 96"),
        ({"vocab_size": -512}, "vocab_size is -512"),
        ({"use_dynamic_ntk": "odd"}, "use_dynamic_ntk is 'odd'; it must be true or false"),
        ({"quantization_config": []}, "the quantization config is a list, not a JSON object"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method is 'awq'; only 'gptq' is supported"),
    ],
)
def test_ck23_a_config_value_out_of_bounds_is_refused_before_anything_is_read(
    checkpoint: Copy, changes: dict, words: str
) -> None:
    directory = checkpoint()
    (directory / FILE).unlink()
    edit_json(directory / "config.json", changes)
    refused(directory, "config.json", words)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "{" * 50_000])
@pytest.mark.parametrize("file", ["config.json", "quantize_config.json", "model.safetensors.index.json"])
def test_ck23_a_file_that_is_not_json_is_refused_by_name(checkpoint: Copy, file: str, content: str) -> None:
    directory = checkpoint(bits=4, sharded=True)
    (directory / file).write_text(content, encoding="utf-8")
    refused(directory, file, "JSON", "download it again")


def test_ck23_a_model_that_does_not_fit_is_refused_with_both_figures_unless_forced(
    checkpoint: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = checkpoint(bits=4)
    monkeypatch.setattr("qwartet.models.residency.available_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"the weights need 0\.00 GiB.* 0\.00 GiB .*--force") as caught:
        load_model(directory)
    assert str(directory) in str(caught.value)
    model = load_model(directory, force=True)
    assert model(dense_batch([[1]], model.config.position)).isfinite().all()


def test_a_sound_checkpoint_gives_no_warning(pristine) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settings in ({}, {"sharded": True}, {"bits": 4}, {"bits": 8, "sharded": True}):
            load_model(pristine(**settings))


@pytest.mark.parametrize("linear", ["attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_linear_that_lost_its_bias_is_refused(checkpoint: Copy, linear: str, bits: int) -> None:
    directory = checkpoint(bits=bits)
    lost = f"transformer.h.0.{linear}.bias"
    set_tensor(directory / FILE, lost, None)
    refused(directory, None, "1 of 2 linears of one kind lack the bias of the others: ", tensor=lost)


def test_linears_that_have_no_bias_in_any_layer_are_loaded(checkpoint: Copy) -> None:
    directory = checkpoint(bits=4)
    for layer in (0, 1):
        set_tensor(directory / FILE, f"transformer.h.{layer}.mlp.w1.bias", None)
    load_model(directory)


def test_a_float_linear_that_alone_has_a_bias_is_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    set_tensor(directory / FILE, "transformer.h.1.mlp.w1.bias", torch.ones(128, dtype=torch.bfloat16))
    refused(directory, None, "1 of 2 linears of one kind lack the bias of the", tensor="transformer.h.0.mlp.w1.bias")
