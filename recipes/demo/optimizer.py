"""Muon for matrices (Jordan et al. 2024) and AdamW for everything else, as one optimizer.

torch.optim.Muon orthogonalises in bf16, which takes a processor without bf16 products 25 s a step of the bundled
model; here the dtype is chosen, and matrices of one shape are orthogonalised together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz iteration
NUM_ITERATIONS = 5
EPSILON = 1e-7


def orthogonalized(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Matrices [B, R, C] with all singular values moved close to 1 (between 0.7 and 1.2), singular vectors kept.

    Products are computed in `dtype`; the result has the dtype of the input.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)).to(dtype)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


class MuonAdamW(Optimizer):
    """Two groups of parameters, each with a learning rate of its own, which schedules scale."""

    def __init__(
        self,
        matrices: Iterable[Parameter],
        others: Iterable[Parameter],
        *,
        matrix_lr: float,
        lr: float,
        momentum: float = 0.95,
        matrix_weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-8,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is that of the orthogonalisation."""
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": matrix_lr, "momentum": momentum, "weight_decay": matrix_weight_decay},
            {"params": list(others), "lr": lr, "betas": list(betas), "eps": epsilon},
        ]
        super().__init__(groups, {})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of the parameters that have a gradient."""
        assert closure is None, "closures are not supported"
        matrices, others = self.param_groups
        ordered = sorted((p for p in matrices["params"] if p.grad is not None), key=_shape)
        for _, same in groupby(ordered, _shape):
            self._step_muon(list(same), matrices)
        self._step_adamw([p for p in others["params"] if p.grad is not None], others)

    def _step_muon(self, parameters: list[Parameter], group: dict[str, Any]) -> None:
        """As torch.optim.Muon with Nesterov momentum and adjust_lr_fn="match_rms_adamw"."""
        directions = []
        for parameter in parameters:
            state, grad = self.state[parameter], parameter.grad
            assert grad is not None
            if not state:
                state["momentum_buffer"] = torch.zeros_like(grad)
            average = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
            directions.append(grad.lerp(average, group["momentum"]))
        rate = group["lr"] * 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, update in zip(parameters, orthogonalized(torch.stack(directions), self._dtype), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _step_adamw(self, parameters: list[Parameter], group: dict[str, Any]) -> None:
        """torch's own, fused."""
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = torch.zeros_like(parameter)
                self.state[parameter].update(exp_avg=zeros, exp_avg_sq=zeros.clone(), step=torch.tensor(0.0))
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters), [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], [], [s["step"] for s in states],
            fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
            weight_decay=0.0, eps=group["eps"], maximize=False,
        )  # fmt: skip


def _shape(parameter: Parameter) -> tuple[int, ...]:
    return tuple(parameter.shape)
