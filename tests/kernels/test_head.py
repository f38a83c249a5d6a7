"""The head that reads 8 bits for the most probable token: always the token of the full head."""

from __future__ import annotations

import pytest
import torch

from qwartet.kernels.cpu.backend import CpuBackend
from tests.kernels.random_weights import random_bf16


def exact_argmax(cpu: CpuBackend, x: torch.Tensor, weight: torch.Tensor, num_valid: int) -> list[int]:
    return cpu.dense_linear(x, weight, dtype=torch.float32)[:, :num_valid].argmax(-1).tolist()


@pytest.mark.parametrize("columns", [64, 200, 512])
def test_the_token_is_that_of_the_full_head_and_few_rows_are_read(cpu, columns) -> None:
    weight, x = random_bf16(5000, columns, seed=1), random_bf16(40, columns, seed=2)
    token_ids, num_candidates = cpu.search_head(x, cpu.prepare_head(weight), weight, 4800)
    assert token_ids == exact_argmax(cpu, x, weight, 4800)
    assert max(num_candidates) < 200 and sum(num_candidates) / 40 < 40


def test_near_ties_and_ties_go_the_way_of_the_full_head(cpu) -> None:
    weight = random_bf16(1000, 256, seed=1)
    weight[700:900] = weight[3] * (1 + torch.linspace(-0.02, 0.02, 200).unsqueeze(1)).bfloat16()
    weight[950] = weight[3]
    x = weight[[3, 3, 720]] * torch.tensor([[1.0], [0.001], [50.0]]).bfloat16()
    token_ids, _ = cpu.search_head(x, cpu.prepare_head(weight), weight, 1000)
    assert token_ids == exact_argmax(cpu, x, weight, 1000)


def test_rows_that_8_bits_render_badly_are_found_all_the_same(cpu) -> None:
    weight, x = random_bf16(2000, 256, seed=1) * 0.01, random_bf16(20, 256, seed=2)
    weight[:, ::128] *= 3000  # one value of a group sets its step: the others round to nothing
    x[:, ::128] = 0
    token_ids, num_candidates = cpu.search_head(x, cpu.prepare_head(weight), weight, 2000)
    assert token_ids == exact_argmax(cpu, x, weight, 2000)
    assert min(num_candidates) > 100  # it knows that it does not know


@pytest.mark.parametrize("case", ["zeros", "huge", "tiny"])
def test_odd_hidden_states_and_heads_are_decided_as_by_the_full_head(cpu, case) -> None:
    weight, x = random_bf16(300, 128, seed=1), random_bf16(2, 128, seed=2)
    weight[17] = 0
    x = {"zeros": x * 0, "huge": x * 1e30, "tiny": x * 1e-30}[case]
    token_ids, _ = cpu.search_head(x, cpu.prepare_head(weight), weight, 300)
    assert token_ids == exact_argmax(cpu, x, weight, 300)


def test_a_hidden_state_that_is_not_finite_has_no_token(cpu) -> None:
    weight, x = random_bf16(300, 128, seed=1), random_bf16(2, 128, seed=2)
    x[1, 5] = torch.nan
    token_ids, _ = cpu.search_head(x, cpu.prepare_head(weight), weight, 300)
    assert token_ids == [exact_argmax(cpu, x[:1], weight, 300)[0], -1]


def test_the_stored_norms_bound_what_rounding_did(cpu) -> None:
    weight = random_bf16(100, 200, seed=1)
    head = cpu.prepare_head(weight)
    columns = torch.eye(200).bfloat16()
    rounded = cpu.quantized_linear(columns, head.packed, dtype=torch.float32).t()  # the 8-bit matrix itself
    error = (weight.double() - rounded.double()).norm(dim=1)
    assert (error <= head.error_norms.double() * (1 + 1e-4)).all() and (
        head.error_norms < 0.02 * weight.norm(dim=1)
    ).all()
    assert (weight.double().norm(dim=1) <= head.row_norms.double()).all()
