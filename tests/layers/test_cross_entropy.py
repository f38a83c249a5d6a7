"""Cross entropy by chunks against torch's over all logits: loss and both gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qwartet.kernels.backend import REFERENCE, Backend
from qwartet.kernels.cpu.backend import CpuBackend
from qwartet.kernels.cpu.library import native_library
from qwartet.layers import cross_entropy
from qwartet.layers.cross_entropy import cross_entropy_sum

T, C, V = 11, 32, 70


def case(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(T, C, generator=generator), torch.randn(V, C, generator=generator)
    labels = torch.randint(V, (T,), generator=generator)
    labels[[0, 4, 10]] = -100
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_loss_and_gradients_are_those_of_all_logits(monkeypatch, rows: int) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS", rows * V)
    hidden, weight, labels = case()
    expected = F.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
    gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    found = cross_entropy_sum(hidden, weight, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, (hidden, weight)), gradients)
    frozen = cross_entropy_sum(hidden, weight.detach(), labels)
    torch.testing.assert_close(torch.autograd.grad(frozen, hidden)[0] * 3, gradients[0])


class Watching(Backend):
    """Counts the logits that exist at a time."""

    most = 0

    def head_logits(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = super().head_logits(x, weight)
        self.most = max(self.most, logits.shape[0])
        return logits


def test_only_a_chunk_of_rows_with_labels_has_logits(monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS", 3 * V)
    backend, (hidden, weight, labels) = Watching(), case()
    cross_entropy_sum(hidden, weight, labels, backend).backward()
    assert backend.most == 3
    assert hidden.grad[[0, 4, 10]].eq(0).all() and hidden.grad[1].ne(0).any()
    nothing = cross_entropy_sum(hidden, weight, torch.full_like(labels, -100), backend)
    assert float(nothing.detach()) == 0
    nothing.backward()


def test_on_the_native_kernels_in_bf16() -> None:
    if native_library() is None:
        pytest.skip("the native library is not built; the reference is tested above")
    hidden, weight, labels = case(dtype=torch.bfloat16)
    expected = F.cross_entropy(hidden.float() @ weight.float().t(), labels, reduction="sum")
    gradient = torch.autograd.grad(expected, hidden)[0].float()
    cases = ((CpuBackend(native_library()), 1e-4, 4e-3), (REFERENCE, 1e-2, 0.1))  # the logits' gradient is bf16 too
    for backend, tolerance, gradient_tolerance in cases:
        found = cross_entropy_sum(hidden, weight.detach(), labels, backend)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
        (of_hidden,) = torch.autograd.grad(found, hidden)
        assert of_hidden.dtype == torch.bfloat16
        assert float((of_hidden.float() - gradient).norm() / gradient.norm()) < gradient_tolerance
