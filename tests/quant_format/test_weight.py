"""QuantizedWeight: the float matrix of a literal, and an error for every way in which tensors can be wrong."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.quant_format import weight as weight_module
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import pack_qweight, pack_qzeros
from qwartet.quant_format.weight import QuantizedShape, QuantizedWeight

K, N, GROUP = 32, 16, 8
CONFIG = GptqConfig(bits=4, group_size=GROUP, desc_act=False, sym=True)
ACT_ORDER = replace(CONFIG, desc_act=True)
SCATTERED = torch.arange(K, dtype=torch.int32) % (K // GROUP)


def tensors_of(bits: int = 4, k: int = K, n: int = N, group: int = GROUP, zero_format: str = "v1") -> dict[str, Any]:
    """Valid tensors of a symmetric k x n linear."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1 << bits, (k, n), generator=generator, dtype=torch.uint8)
    zeros = torch.full((-(-k // group), n), 1 << (bits - 1), dtype=torch.uint8)
    return {
        "qweight": pack_qweight(codes, bits),
        "qzeros": pack_qzeros(zeros, bits, zero_format),
        "scales": torch.rand(zeros.shape, generator=generator).half() + 0.01,
        "g_idx": torch.arange(k, dtype=torch.int32) // group,
        "bias": torch.randn(n, generator=generator).half(),
    }


def read(tensors: dict[str, Any], config: GptqConfig = CONFIG) -> QuantizedWeight:
    return QuantizedWeight.from_tensors(tensors, config, name="h.0.attn.c_attn", path="model.safetensors")


def refused(tensors: dict[str, Any], config: GptqConfig = CONFIG) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(tensors, config)
    assert caught.value.path == "model.safetensors"
    return str(caught.value)


def test_a_weight_is_scale_times_code_minus_zero() -> None:
    codes = torch.tensor([[0], [1], [2], [8], [9], [10], [14], [15]], dtype=torch.uint8).expand(8, 8).contiguous()
    zeros = torch.tensor([[8] * 8, [1] * 8], dtype=torch.uint8)
    scales = torch.tensor([[0.5] * 8, [2.0] * 8])
    weight = QuantizedWeight.from_codes(codes, scales, zeros, bits=4, group_size=4, sym=False)
    assert weight.dequantize().shape == (8, 8)
    assert weight.dequantize()[3].tolist() == [-4.0, -3.5, -3.0, 0.0, 16.0, 18.0, 26.0, 28.0]


def test_g_idx_says_which_group_an_input_is_in() -> None:
    codes = torch.full((8, 8), 9, dtype=torch.uint8)
    zeros = torch.full((2, 8), 8, dtype=torch.uint8)
    scales = torch.tensor([[1.0] * 8, [4.0] * 8])
    g_idx = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1], dtype=torch.int32)
    weight = QuantizedWeight.from_codes(codes, scales, zeros, bits=4, group_size=4, sym=True, g_idx=g_idx)
    assert weight.dequantize()[0].tolist() == [1.0, 4.0, 4.0, 1.0, 1.0, 4.0, 1.0, 4.0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_format", ["v1", "v2"])
def test_both_versions_of_the_format_stand_for_the_same_matrix(bits: int, zero_format: str) -> None:
    config = replace(CONFIG, bits=bits, checkpoint_format={"v1": "gptq", "v2": "gptq_v2"}[zero_format])
    tensors = tensors_of(bits, zero_format=zero_format)
    weight = read(tensors, config)
    assert weight.zero_format == zero_format
    step = tensors["scales"].float().repeat_interleave(GROUP, 0)
    assert torch.equal(weight.dequantize(), (step * (weight.codes().float() - (1 << (bits - 1)))).t())


def test_properties_follow_from_the_shapes() -> None:
    weight = read(tensors_of(bits=8, k=40, n=12, group=16), replace(CONFIG, bits=8, group_size=16))
    assert (weight.in_features, weight.out_features, weight.num_groups) == (40, 12, 3)
    sizes = {name: tensor.nbytes for name, tensor in weight.tensors.items()}
    assert sizes == {"qweight": 40 * 12, "scales": 3 * 12 * 2, "qzeros": 3 * 12, "bias": 12 * 2}
    assert weight.shape == QuantizedShape(40, 12, 8, 16, 3, sym=True, has_bias=True, has_order=False)


def test_nothing_is_copied_on_reading() -> None:
    tensors = tensors_of()
    weight = read(tensors)
    for field, suffix in (("qweight", "qweight"), ("scales", "scales"), ("qzeros", "qzeros"), ("bias", "bias")):
        assert getattr(weight, field).data_ptr() == tensors[suffix].data_ptr()


def test_tiles_give_the_whole_matrix_at_any_border(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = read(tensors_of())
    whole = weight.dequantize()
    assert torch.equal(torch.cat([weight.dequantize_rows(0, 3), weight.dequantize_rows(3, 13)]), whole[:13])
    monkeypatch.setattr(weight_module, "TILE_VALUES", 5 * K)
    assert torch.equal(weight.dequantize(), whole)


def test_a_lower_precision_is_one_rounding_of_the_fp32_matrix() -> None:
    weight = read(tensors_of())
    assert torch.equal(weight.dequantize(torch.bfloat16), weight.dequantize().bfloat16())


@pytest.mark.parametrize("act_order", [False, True])
def test_what_is_written_is_what_is_read(act_order: bool) -> None:
    tensors = tensors_of()
    if act_order:
        tensors["g_idx"] = SCATTERED
    config = ACT_ORDER if act_order else CONFIG
    written = read(tensors, config).to_tensors()
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[suffix], tensors[suffix]) for suffix in tensors)


def test_a_weight_without_bias_is_written_with_a_bias_of_zeros() -> None:
    tensors = tensors_of()
    del tensors["bias"]
    assert read(tensors).bias is None
    assert torch.equal(read(tensors).to_tensors()["bias"], torch.zeros(N, dtype=torch.float16))


def test_a_last_group_may_be_short() -> None:
    weight = read(tensors_of(k=40, group=16), replace(CONFIG, group_size=16))
    assert weight.num_groups == 3
    assert weight.group_of_input().bincount().tolist() == [16, 16, 8]


@pytest.mark.parametrize("group_size", [-1, K, 1000, 10**30])
def test_one_group_for_all_inputs_however_it_is_said(group_size: int) -> None:
    weight = read(tensors_of(group=K), replace(CONFIG, group_size=group_size))
    assert (weight.num_groups, weight.group_size) == (1, K)


# CK-09, CK-14: tensors that are missing or have another type


@pytest.mark.parametrize("suffix", ["qweight", "qzeros", "scales"])
def test_a_missing_tensor_is_named(suffix: str) -> None:
    tensors = tensors_of()
    del tensors[suffix]
    assert f"h.0.attn.c_attn.{suffix}: is missing" in refused(tensors)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        ("qweight", torch.int64),
        ("qweight", torch.int16),
        ("qweight", torch.float32),
        ("qzeros", torch.int64),
        ("scales", torch.float64),
        ("scales", torch.int32),
        ("g_idx", torch.int64),
        ("g_idx", torch.float16),
        ("bias", torch.int32),
    ],
)
def test_another_dtype_is_refused_naming_both(suffix: str, dtype: torch.dtype) -> None:
    tensors = tensors_of()
    is_float = suffix in ("scales", "bias")
    wanted = "float16 or bfloat16 or float32" if is_float else str(tensors[suffix].dtype).removeprefix("torch.")
    tensors[suffix] = tensors[suffix].to(dtype)
    found = str(dtype).removeprefix("torch.")
    assert f"c_attn.{suffix}: dtype is {found}; GPTQ stores {wanted}" in refused(tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_wider_scales_become_fp16_and_a_wider_bias_stays(dtype: torch.dtype) -> None:
    tensors = tensors_of()
    values = torch.tensor([2.0**-24, 2.0**-14, 0.01171875, 1.5, 65280.0]).to(dtype)  # both formats hold them
    tensors["scales"] = values.repeat(13)[: K // GROUP * N].view(K // GROUP, N).clone()
    tensors["bias"] = tensors["bias"].to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight = read(tensors)
    assert weight.scales.dtype == torch.float16 and torch.equal(weight.scales.to(dtype), tensors["scales"])
    assert weight.bias is tensors["bias"]


@pytest.mark.parametrize(("value", "bound"), [(0.3, 0.3 * 2**-11), (1e-5, 2**-25), (1e-9, 2**-25)])
def test_a_scale_that_fp16_does_not_hold_is_off_by_no_more_than_is_told(value: float, bound: float) -> None:
    tensors = tensors_of()
    tensors["scales"] = torch.full(tensors["scales"].shape, value)
    with pytest.warns(CheckpointWarning, match=r"by up to 2\^-11 of its value \(2\^-25 if it is below 2\^-14\)"):
        weight = read(tensors)
    assert float((weight.scales.double() - value).abs().max()) <= bound


# CK-13, CK-17: shapes that contradict each other or the config


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [
        ("qweight", [K * N // 8]),
        ("qweight", [0, N]),
        ("qweight", [K // 8, 0]),
        ("qweight", []),
        ("qzeros", [4, 2, 1]),
        ("scales", [0, 0]),
        ("g_idx", [1, K]),
        ("g_idx", [0]),
        ("bias", [N, 1]),
    ],
)
def test_a_wrong_number_of_dimensions_or_an_empty_one_is_refused(suffix: str, shape: list[int]) -> None:
    tensors = tensors_of()
    tensors[suffix] = torch.zeros(shape, dtype=tensors[suffix].dtype)
    assert f"c_attn.{suffix}: shape is {shape}" in refused(tensors)


@pytest.mark.parametrize(("said", "true"), [(8, 4), (4, 8)])
def test_bits_that_the_tensors_contradict_are_refused_naming_both(said: int, true: int) -> None:
    assert f"the config says bits {said}; qzeros and scales imply bits {true}" in refused(
        tensors_of(bits=true), replace(CONFIG, bits=said)
    )


@pytest.mark.parametrize("said", [4, 16, 12, -1, 10**30])
def test_a_group_size_that_the_tensors_contradict_is_refused_naming_both(said: int) -> None:
    message = refused(tensors_of(), replace(CONFIG, group_size=said))
    assert f"the config says group_size {said}" in message
    assert f"the tensor has {K // GROUP} groups" in message


@pytest.mark.parametrize(
    ("suffix", "shape", "words"),
    [
        ("scales", [4, N + 1], f"shape is [4, {N + 1}]; qweight and qzeros imply [4, {N}]"),
        ("scales", [3, N], f"shape is [3, {N}]"),
        ("qzeros", [4, 3], "imply bits 6"),
        ("qweight", [3, N], "qweight with bits 4 implies 24"),
        ("g_idx", [K + 8], f"has {K + 8} entries; qweight with bits 4 implies {K}"),
        ("bias", [N - 1], f"has {N - 1} entries"),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(suffix: str, shape: list[int], words: str) -> None:
    tensors = tensors_of()
    tensors[suffix] = torch.ones(shape, dtype=tensors[suffix].dtype)
    assert words in refused(tensors)


# CK-15: scales


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("suffix", "size"), [("scales", N * K // GROUP), ("bias", N)])
def test_values_that_are_not_finite_are_counted_and_refused(suffix: str, size: int, value: float) -> None:
    tensors = tensors_of()
    tensors[suffix].view(-1)[[1, -1]] = value
    assert f"c_attn.{suffix}: 2 of {size} values are NaN or infinite" in refused(tensors)


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_scales_at_or_below_zero_are_used_with_a_warning(value: float) -> None:
    tensors = tensors_of()
    tensors["scales"][2, 3] = value
    with pytest.warns(CheckpointWarning, match=r"c_attn\.scales: 1 values are negative or zero"):
        weight = read(tensors)
    assert torch.equal(weight.scales, tensors["scales"])


# CK-19: the version of the stored zeros


@pytest.mark.parametrize(("written", "label"), [("v2", None), ("v2", "gptq"), ("v1", "gptq_v2")])
@pytest.mark.parametrize("bits", [4, 8])
def test_symmetric_zeros_beat_a_label_that_contradicts_them(bits: int, written: str, label: str | None) -> None:
    config = replace(CONFIG, bits=bits, checkpoint_format=label)
    with pytest.warns(CheckpointWarning, match="but the stored zeros are those of"):
        weight = read(tensors_of(bits, zero_format=written), config)
    assert weight.zero_format == written
    assert set(weight.zeros().flatten().tolist()) == {1 << (bits - 1)}


@pytest.mark.parametrize(("written", "label"), [("v1", None), ("v1", "gptq"), ("v2", "gptq_v2")])
def test_a_label_that_the_zeros_confirm_is_no_news(written: str, label: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tensors_of(zero_format=written), replace(CONFIG, checkpoint_format=label)).zero_format == written


def test_symmetric_zeros_that_are_not_the_midpoint_are_refused() -> None:
    tensors = tensors_of()
    tensors["qzeros"][0, 0] ^= 1
    assert "sym is true, but the zeros are not all the midpoint" in refused(tensors)


def test_asymmetric_zeros_are_read_only_when_the_config_says_how() -> None:
    config = replace(CONFIG, sym=False)
    assert "sym is false and checkpoint_format is not stated; add" in refused(tensors_of(), config)
    zero_of = {
        label: read(tensors_of(), replace(config, checkpoint_format=label)).zeros().unique().tolist()
        for label in ("gptq", "gptq_v2")
    }
    assert zero_of == {"gptq": [8], "gptq_v2": [7]}


def test_an_asymmetric_zero_of_0_wraps_in_version_1() -> None:
    zeros = torch.arange(N, dtype=torch.uint8).expand(K // GROUP, N).contiguous() % 16
    tensors = {**tensors_of(), "qzeros": pack_qzeros(zeros, 4, "v1")}
    weight = read(tensors, replace(CONFIG, sym=False, checkpoint_format="gptq"))
    assert torch.equal(weight.zeros(), zeros)


# CK-20: g_idx


def test_a_g_idx_in_plain_order_is_dropped_even_with_desc_act() -> None:
    assert read(tensors_of()).g_idx is None
    assert read(tensors_of(), ACT_ORDER).g_idx is None


def test_a_missing_g_idx_means_plain_order_only_without_desc_act() -> None:
    tensors = tensors_of()
    del tensors["g_idx"]
    assert torch.equal(read(tensors).group_of_input(), tensors_of()["g_idx"])
    assert "c_attn.g_idx: is missing" in refused(tensors, ACT_ORDER)


def test_a_scattered_g_idx_needs_desc_act() -> None:
    tensors = {**tensors_of(), "g_idx": SCATTERED}
    assert torch.equal(read(tensors, ACT_ORDER).g_idx, SCATTERED)
    assert "input 1 is in group 1, not 0, though desc_act is false" in refused(tensors)


@pytest.mark.parametrize("value", [-1, K // GROUP, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("config", [CONFIG, ACT_ORDER])
def test_a_group_that_does_not_exist_is_refused(value: int, config: GptqConfig) -> None:
    tensors = tensors_of()
    tensors["g_idx"][5] = value
    assert f"c_attn.g_idx: values range from {min(value, 0)} to {max(value, 3)}; the groups are 0 to 3" in refused(
        tensors, config
    )


def test_groups_of_uneven_size_are_refused() -> None:
    tensors = {**tensors_of(), "g_idx": SCATTERED.clone()}
    tensors["g_idx"][0] = 1
    assert f"does not assign {GROUP} inputs to every group" in refused(tensors, ACT_ORDER)


# Anything at all


@st.composite
def hostile_tensors(draw: st.DrawFn) -> dict[str, Any]:
    tensors = tensors_of()
    for suffix in draw(st.sets(st.sampled_from(sorted(tensors)), min_size=1)):
        if draw(st.booleans()):
            shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 16, 32]), max_size=3))
            dtype = draw(st.sampled_from([torch.int32, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn]))
            tensors[suffix] = torch.zeros(shape, dtype=dtype)
        else:
            raw = tensors[suffix].view(torch.uint8).view(-1)
            raw[draw(st.integers(0, len(raw) - 1))] ^= draw(st.integers(1, 255))
    return tensors


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    hostile_tensors(),
    st.sampled_from([4, 8]),
    st.sampled_from([-1, 1, 7, 8, 16, 32, 10**12]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "gptq", "gptq_v2"]),
)
def test_hostile_tensors_are_refused_or_stand_for_a_finite_matrix(
    tensors: dict[str, Any], bits: int, group_size: int, desc_act: bool, sym: bool, label: str | None
) -> None:
    config = GptqConfig(bits, group_size, desc_act, sym, checkpoint_format=label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        try:
            weight = read(tensors, config)
        except CheckpointError:
            return
    dense = weight.dequantize()
    assert dense.shape == (weight.out_features, weight.in_features)
    assert dense.isfinite().all()
