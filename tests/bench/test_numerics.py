"""`qwartet bench numerics`: its arithmetic by hand, its outliers, and that it sees a difference where there is one."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwartet.bench.contexts import BATCH_TOKENS, SeenContexts, batches, read_conversations
from qwartet.bench.numerics import (
    BF16_REFERENCE,
    CONTROL,
    NATIVE,
    Agreement,
    Tally,
    compare,
    kl_divergence,
    load_reference,
    logits_of,
    margins,
    measure_numerics,
    round_to_int8,
)
from qwartet.bench.outliers import with_weaker_inputs, write_outliers
from qwartet.checkpoint.shards import Checkpoint
from qwartet.cli.main import run
from qwartet.errors import CheckpointError, SettingError
from qwartet.kernels.cpu import library as native
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import load_gptq_config
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.tokenizer.chatml import Message
from tests.kernels.random_weights import random_weight
from tests.published_names import disk_name
from tests.tiny_checkpoint import HIDDEN_SIZE, NUM_LAYERS, NUM_RANKS, VOCAB_SIZE, write_tiny_checkpoint

EXAMPLES = [
    torch.randint(NUM_RANKS, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (40, 17, 33, 1, 60)
]
NUM_POSITIONS = sum(map(len, EXAMPLES))
READERS = [
    (f"layers.{layer}.{norm}", f"layers.{layer}.{linear}")
    for layer in range(NUM_LAYERS)
    for norm, linear in (("attention_norm", "attention.qkv"), ("mlp_norm", "mlp.up"), ("mlp_norm", "mlp.gate"))
]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def needs_native() -> None:
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "int4", bits=4)


@pytest.fixture(scope="module")
def int8_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "int8", bits=8)


def logits(*rows: list[float]) -> Tensor:
    """Logits of rows of probabilities."""
    return torch.tensor(rows).log()


# --- arithmetic


def test_kl_is_that_of_the_distributions_whatever_is_added_to_their_logits() -> None:
    p, q = logits([0.5, 0.25, 0.25], [0.5, 0.5, 0]), logits([0.25, 0.5, 0.25], [0.5, 0.25, 0.25])
    expected = torch.tensor([0.25 * math.log(2), 0.5 * math.log(2)])
    p[1, 2] = -1e4  # as good as never
    assert torch.allclose(kl_divergence(p, q).float(), expected, atol=1e-6)
    assert torch.allclose(kl_divergence(p + 7, q - 3).float(), expected, atol=1e-6)
    assert kl_divergence(q, q + 5).max() < 1e-12


def test_kl_takes_any_number_of_rows() -> None:
    p, q = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(300, 5)
    one_by_one = torch.cat([kl_divergence(p[row : row + 1], q[row : row + 1]) for row in range(300)])
    assert torch.equal(kl_divergence(p, q), one_by_one)
    assert kl_divergence(p[:0], q[:0]).shape == (0,)


def test_the_margin_is_the_largest_logit_less_the_second() -> None:
    assert margins(torch.tensor([[1.0, 4.0, 3.5], [2.0, 2.0, -1.0]])).tolist() == [0.5, 0]


def test_top1_counts_only_where_the_margin_is_clear() -> None:
    reference = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    other = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 9.0]])  # same, no, no, same
    tally = Tally()
    tally.add(reference[:1], other[:1])
    tally.add(reference[1:], other[1:])
    found = tally.agreement()
    assert (found.num_positions, found.num_clear, found.num_same) == (4, 3, 2)
    assert found.top1 == 2 / 3 and found.clear_share == 3 / 4


def test_mean_quantile_and_largest_are_those_of_all_positions() -> None:
    same, half = logits([0.5, 0.5]), logits([0.25, 0.75])
    once = float(kl_divergence(same, half))
    few, more = Tally(), Tally()
    for tally, count in ((few, 2), (more, 3)):
        tally.add(same.expand(2000 - count, 2), same.expand(2000 - count, 2))
        tally.add(same.expand(count, 2), half.expand(count, 2))
    assert few.agreement().mean_kl == pytest.approx(2 * once / 2000)
    assert few.agreement().p999_kl < 1e-12 and more.agreement().p999_kl == pytest.approx(once)
    assert few.agreement().max_kl == pytest.approx(once)


def test_a_logit_that_is_not_a_number_is_infinitely_far() -> None:
    tally = Tally()
    tally.add(torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, math.nan, 0.0]]))
    assert tally.agreement().mean_kl == math.inf and not tally.agreement().is_within_bounds


@pytest.mark.parametrize(
    ("mean_kl", "num_same", "is_within"), [(1e-3, 999, True), (1.01e-3, 1000, False), (0.0, 998, False)]
)
def test_the_bounds_are_those_of_the_project(mean_kl: float, num_same: int, is_within: bool) -> None:
    assert Agreement(2000, mean_kl, 1.0, 1.0, 1000, num_same).is_within_bounds is is_within


def test_the_control_rounds_each_group_to_255_steps() -> None:
    x = torch.zeros(1, 256)
    x[0, 0], x[0, 1], x[0, 128] = 127.0, 0.6, 0.6  # a step of 1 in the first group, of 0.6 / 127 in the second
    assert torch.allclose(round_to_int8(x)[0, [0, 1, 128, 129]], torch.tensor([127.0, 1.0, 0.6, 0.0]))


# --- positions


def test_a_context_counts_where_it_is_met_first() -> None:
    seen = SeenContexts()
    assert seen.add([1, 2, 3]) == [True, True, True]
    assert seen.add([1, 2, 4, 3]) == [False, False, True, True]
    assert seen.add([2, 3]) == [True, True], "the same ids in another place are another context"
    assert seen.add([1, 2, 3]) == [False] * 3
    assert len(seen) == 7


def test_batches_hold_whole_examples_and_end_with_enough_contexts() -> None:
    examples = [[number] * 400 for number in range(9)]
    found = list(batches(examples, 1300))
    assert [row for batch in found for row in batch.examples] == examples[:4]
    assert all(sum(map(len, batch.examples)) == len(batch.is_new) <= BATCH_TOKENS for batch in found)
    longest = [list(range(BATCH_TOKENS + 5))]
    assert [batch.examples for batch in batches(longest, 1)] == [longest]


def test_conversations_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "你好"}]}\n\n', encoding="utf-8")
    assert read_conversations(file) == [[Message("user", "你好")]]


@pytest.mark.parametrize(
    "line",
    ["", "[1]", "{", '{"messages": []}', '{"messages": [{"role": "user"}]}', '{"messages": [["user", "x"]]}'],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text(f'{{"messages": [{{"role": "user", "content": "x"}}]}}\n{line or "null"}\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match="line 2 is"):
        read_conversations(file)


def test_an_unknown_role_and_a_missing_file_are_named(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('{"messages": [{"role": "tool", "content": "x"}]}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="line 1: role is 'tool'"):
        read_conversations(file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_conversations(tmp_path / "absent.jsonl")


# --- outliers


def quantized(directory: Path, linear: str) -> QuantizedWeight:
    checkpoint, name, gptq = Checkpoint(directory), disk_name(linear), load_gptq_config(directory)
    assert gptq is not None
    tensors = {leaf: checkpoint.read(f"{name}.{leaf}") for leaf in ("qweight", "qzeros", "scales", "g_idx")}
    return QuantizedWeight.from_tensors(tensors, gptq, name=name, path=directory)


def norm_of(directory: Path, norm: str) -> Tensor:
    return Checkpoint(directory).read(f"{disk_name(norm)}.weight").float()


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_a_share_of_every_norm_is_multiplied_and_one_channel_at_least(model: Path, tmp_path: Path, share) -> None:
    channels = write_outliers(model, tmp_path / "outliers", share=share)
    assert set(channels) == {norm for norm, _ in READERS} | {"norm"}
    for norm, chosen in channels.items():
        ratio = norm_of(tmp_path / "outliers", norm) / norm_of(model, norm)
        assert ratio[chosen].tolist() == [100.0] * len(chosen)
        assert len(chosen) == max(round(share * HIDDEN_SIZE), 1) and int((ratio == 1).sum()) == len(ratio) - len(chosen)
    assert len(set(map(tuple, channels.values()))) > 1, "each norm has its own"
    assert write_outliers(model, tmp_path / "again", share=share) == channels
    assert write_outliers(model, tmp_path / "other", share=share, seed=1) != channels


def test_norm_times_weight_stays_what_it_was_up_to_the_rounding(int8_model: Path, tmp_path: Path) -> None:
    outliers = tmp_path / "outliers"
    channels = write_outliers(int8_model, outliers)
    for norm, linear in READERS:
        before, after = quantized(int8_model, linear), quantized(outliers, linear)
        difference = (
            after.dequantize() * norm_of(outliers, norm) - before.dequantize() * norm_of(int8_model, norm)
        ).t()
        half_step = 0.5 * before.scales[0].float() * norm_of(outliers, norm)[channels[norm], None]
        assert (difference[channels[norm]].abs() <= 1.001 * half_step).all(), linear
        assert after.dequantize()[:, channels[norm]].any(), "8 bits keep some of it"
        difference[channels[norm]] = 0
        assert not difference.any(), "the codes of all other inputs stay"


def test_the_head_is_divided_where_the_last_norm_is_multiplied(model: Path, tmp_path: Path) -> None:
    chosen = write_outliers(model, tmp_path / "outliers")["norm"]
    before, after = (Checkpoint(path).read("lm_head.weight").float() for path in (model, tmp_path / "outliers"))
    assert torch.allclose(after[:, chosen] * 100, before[:, chosen], rtol=1e-2, atol=1e-5)
    after[:, chosen] = before[:, chosen]
    assert torch.equal(before, after)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_inputs_are_divided_whatever_their_zeros_and_their_order(sym: bool, act_order: bool) -> None:
    weight = random_weight(256, 64, bits=8, sym=sym, act_order=act_order)
    chosen = torch.tensor([3, 200])
    weaker = with_weaker_inputs(weight, chosen, 4.0).dequantize()
    half_step = 0.5 * weight.scales.float()[weight.group_of_input()[chosen].long()].t()
    expected = weight.dequantize()
    assert ((weaker[:, chosen] - expected[:, chosen] / 4).abs() <= 1.001 * half_step).all()
    weaker[:, chosen] = expected[:, chosen]
    assert torch.equal(weaker, expected)


def test_a_factor_that_fp16_cannot_hold_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="use a smaller factor"):
        write_outliers(model, tmp_path / "outliers", factor=1e6)


# --- networks


def test_logits_through_the_cache_are_those_without_one(model: Path) -> None:
    network = load_reference(model)
    with torch.inference_mode():
        dense = network(dense_batch(EXAMPLES, network.config.position))
    assert torch.allclose(logits_of(network, EXAMPLES), dense, atol=1e-4)


def test_the_bf16_reference_runs_on_the_reference_kernels(model: Path) -> None:
    network = load_reference(model, torch.bfloat16)
    assert network.dtype == torch.bfloat16 and network.backend.names["quantized linear"] == "reference"
    difference = (logits_of(network, EXAMPLES) - logits_of(load_reference(model), EXAMPLES)).abs()
    assert 0 < difference.mean() < 0.02 * logits_of(network, EXAMPLES).abs().mean()


def test_a_network_agrees_with_itself_and_not_with_a_damaged_copy(model: Path) -> None:
    damaged = load_reference(model)
    damaged.norm.weight.data[: HIDDEN_SIZE // 4] = 0
    same, other = (partial(logits_of, network) for network in (load_reference(model), damaged))
    found = compare(same, {"same": same, "damaged": other}, EXAMPLES, NUM_POSITIONS, VOCAB_SIZE)
    assert found["same"].num_positions == NUM_POSITIONS and found["same"].num_clear > 0
    assert found["same"].max_kl == 0 and found["same"].top1 == 1
    assert found["damaged"].mean_kl > 1e-2 and found["damaged"].top1 < 0.999


def test_ids_that_no_text_can_have_do_not_count(model: Path) -> None:
    strange = load_reference(model)
    strange.lm_head.weight.data[NUM_RANKS:] += 1
    usual, other = (partial(logits_of, network) for network in (load_reference(model), strange))
    found = [
        compare(usual, {"": other}, EXAMPLES, NUM_POSITIONS, num_valid)[""] for num_valid in (NUM_RANKS, VOCAB_SIZE)
    ]
    assert found[0].max_kl == 0 and found[1].mean_kl > 1e-2


@pytest.mark.usefixtures("needs_native")
def test_outliers_break_8_bits_throughout_and_not_the_native_kernels(model: Path) -> None:
    told: list[str] = []
    report = measure_numerics(model, EXAMPLES, NUM_POSITIONS, VOCAB_SIZE, told.append)
    assert list(report.variants) == ["as it is", "outliers"] and told[-1].startswith("outliers: 151 of 151")
    for rows in report.variants.values():
        assert list(rows) == [BF16_REFERENCE, *NATIVE.values(), CONTROL]
        assert all(0 < row.mean_kl <= 2e-3 for name, row in rows.items() if name != CONTROL), "bf16 rounds everywhere"
    exact, int8 = (report.variants["as it is"][name] for name in NATIVE.values())
    assert exact.mean_kl < int8.mean_kl
    before, after = (rows[CONTROL].mean_kl for rows in report.variants.values())
    assert after > 20 * before and after > 20 * report.variants["outliers"][NATIVE["int8"]].mean_kl


# --- the verb


def text_file(folder: Path) -> Path:
    lines = [{"messages": [{"role": "user", "content": f"hello {number}, 你好"}]} for number in range(12)]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder / "text.jsonl"


@pytest.mark.usefixtures("needs_native")
def test_the_verb_prints_a_table_and_json(model: Path, tmp_path: Path, capsys) -> None:
    options = ["--text", str(text_file(tmp_path)), "--positions", "50", "--json"]
    assert run(["bench", "numerics", str(model), *options]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    for variant in ("as it is", "outliers"):
        assert table.count(variant) == 1
        for name, row in report["variants"][variant].items():
            assert row["num_positions"] >= 50
            assert any(f"  {name} " in line and f"{row['mean_kl']:.2e}" in line for line in table)
    assert report["bounds"] == {"margin": 0.4, "max_mean_kl": 1e-3, "min_top1": 0.999}


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize(
    ("positions", "bits", "words"),
    [(0, 4, "positions is 0"), (9999, 4, "different positions, but 9999 are needed"), (50, None, "is not quantised")],
)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, capsys, positions, bits, words) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", bits=bits)
    arguments = [str(directory), "--text", str(text_file(tmp_path)), "--positions", str(positions)]
    assert run(["bench", "numerics", *arguments]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
