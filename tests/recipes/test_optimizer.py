"""The optimizer of the bundled model against torch's own Muon and AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from recipes.demo.optimizer import MuonAdamW, orthogonalized


@pytest.mark.parametrize("shape", [(2, 8, 24), (2, 24, 8), (1, 16, 16)])
def test_singular_values_move_close_to_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for matrix, moved in zip(matrices, orthogonalized(matrices), strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        values = (u.mT @ moved @ v.mT).diagonal()
        assert values.min() > 0.6 and values.max() < 1.3, "and the singular vectors stay"
        torch.testing.assert_close(moved, u @ values.diag() @ v, rtol=1e-3, atol=1e-3)


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(32, 16, generator=generator)
        model.zero_grad()
        (model(x) - x.roll(1, 1)).pow(2).mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def parts(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    return [p for p in model.parameters() if p.ndim == 2], [p for p in model.parameters() if p.ndim == 1]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_are_those_of_torch(dtype: torch.dtype) -> None:
    ours, theirs = model(), model()
    matrices, others = parts(theirs)
    torch_optimizers = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=5.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    start = copy.deepcopy(ours)
    train(ours, [MuonAdamW(*parts(ours), matrix_lr=1e-2, lr=3e-3, matrix_weight_decay=5.0, dtype=dtype)], 5)
    train(theirs, torch_optimizers, 5)
    for name, before in start.named_parameters():
        moved, expected = ours.get_parameter(name) - before, theirs.get_parameter(name) - before
        assert (moved - expected).norm() <= 0.08 * expected.norm(), f"{name}: torch's orthogonalises in bf16"


def test_a_restored_optimizer_continues_bit_by_bit() -> None:
    whole, stopped = model(), model()
    train(whole, [MuonAdamW(*parts(whole), matrix_lr=1e-2, lr=3e-3)], 1)
    first = MuonAdamW(*parts(stopped), matrix_lr=1e-2, lr=3e-3)
    train(stopped, [first], 1)
    second = MuonAdamW(*parts(stopped), matrix_lr=9.0, lr=9.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(stopped, [second], 3)
    train(whole, [first_of(whole, first)], 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), stopped.parameters(), strict=True))


def first_of(model: nn.Module, optimizer: MuonAdamW) -> MuonAdamW:
    """The optimizer's state on another model's parameters."""
    moved = MuonAdamW(*parts(model), matrix_lr=1e-2, lr=3e-3)
    moved.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return moved
