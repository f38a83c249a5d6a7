"""What quantising a checkpoint needs from a device: products of fp32 matrices, a factorisation, and rounding by rows.

`GptqOps` is the reference, in torch on any device; kernels/cpu/gptq_ops.py does the same with the native library.
Names that end in an underscore write to their first argument. Shape letters: K inputs, N outputs, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.kernels.backend import REFERENCE, Backend


class GptqOps:
    """The reference."""

    name = "torch"

    factor_copies = 5
    """Matrices as large as H that `inverse_factor_` holds at most, H included."""

    def backend(self, dtype: torch.dtype) -> Backend:
        """The operations of the network that the calibration goes through."""
        return REFERENCE

    def add_gram_(self, hessian: Tensor, x: Tensor, *, decay: float, scale: float) -> None:
        """hessian [K, K] = decay * hessian + scale * x^T x for x fp32 [T, K]; only the upper triangle need be right."""
        hessian.addmm_(x.t(), x, beta=decay, alpha=scale)

    def inverse_factor_(self, hessian: Tensor) -> bool:
        """Replaces the upper triangle of H [K, K] by the upper triangular F with F^T F = H^-1.

        False, with an upper triangle of no meaning, where H is not positive definite; the lower triangle is kept.
        """
        # With rows and columns reversed, H = L L^T becomes H = M M^T with M upper triangular, and F = M^-1: one
        # factorisation and one triangular inverse, where inverting H first would take two and lose digits.
        L, failed_at = torch.linalg.cholesky_ex(hessian.flip(0, 1))  # reads the lower triangle: the upper one of H
        if failed_at:
            return False
        M = L.flip(0, 1)
        del L
        inverse = torch.linalg.solve_triangular(M, torch.eye(len(M), device=M.device), upper=True)
        hessian.tril_(-1).add_(inverse.triu_())
        return True

    def round_rows_(
        self, weight: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, bits: int, codes: Tensor
    ) -> None:
        """Rounds the rows of weight [k, N] one by one to the grid of scale and zero [N], into codes uint8 [k, N].

        The error of each row is moved into the rows below, weighted by factor [k, k], a diagonal block of F; what is
        left in weight are the errors, each divided by its diagonal element.
        """
        most = (1 << bits) - 1
        for i in range(len(weight)):
            code = (torch.round(weight[i] / scale) + zero).clamp_(0, most)
            codes[i] = code
            error = (weight[i] - scale * (code - zero)) / factor[i, i]
            weight[i] = error
            weight[i + 1 :].sub_(torch.outer(factor[i, i + 1 :], error))

    def subtract_product_(self, rest: Tensor, factor: Tensor, errors: Tensor) -> None:
        """rest [m, N] -= factor [k, m]^T errors [k, N]."""
        rest.addmm_(factor.t(), errors, alpha=-1)

    def search_scale(
        self, weight: Tensor, importance: Tensor, shrinks: Tensor, scale: Tensor, zero: Tensor, bits: int
    ) -> Tensor:
        """Of the multiples of scale [N] by `shrinks`, the first one with the smallest error for each output.

        The error is the sum of importance[k] * (weight[k, n] - rounded)^2 over the rows of weight [k, N].
        """
        most = (1 << bits) - 1
        best, chosen = torch.full_like(scale, torch.inf), scale
        for shrink in shrinks.tolist():
            tried = scale * shrink
            code = (torch.round(weight / tried) + zero).clamp_(0, most)
            error = importance @ (weight - tried * (code - zero)).square()
            chosen = torch.where(error < best, tried, chosen)
            best = torch.minimum(best, error)
        return chosen


REFERENCE_OPS = GptqOps()
