"""Cross entropy of an output head without the whole matrix of logits.

    loss = sum over rows of logsumexp(z) - z[label],  z = h W^T        dL/dz = softmax(z) - onehot(label)

Logits [T, V] in fp32 are the largest tensor of a training step: 1.2 GB for 2048 tokens of Qwen. Here they exist for a
few rows at a time, and only for rows with a label. Their gradient is known with the loss, so it is taken to h and W at
once, and the backward pass only scales it (as in Liger Kernel, Hsu et al. 2024).

Shape letters: T rows, C hidden_size, V vocab_size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from qwartet.kernels.backend import REFERENCE, Backend
from qwartet.tokenizer.chatml import IGNORED_LABEL

LOGITS = 1 << 25  # of a chunk: 128 MB


def cross_entropy_sum(hidden: Tensor, weight: Tensor, labels: Tensor, backend: Backend = REFERENCE) -> Tensor:
    """The loss, fp32 scalar, summed over the rows of hidden [T, C] whose label [T] is not -100; head weight [V, C].

    Differentiable in hidden and weight.
    """
    rows = (labels != IGNORED_LABEL).nonzero().squeeze(1)
    selected = hidden if len(rows) == len(labels) else hidden[rows]
    loss: Tensor = _CrossEntropy.apply(selected, weight, labels[rows].long(), backend)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, backend: Backend) -> Tensor:
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        loss = torch.zeros((), device=hidden.device)
        num_chunks = -(-len(labels) * len(weight) // LOGITS)
        for chunk in torch.arange(len(labels)).tensor_split(num_chunks) if len(labels) else ():
            part = slice(int(chunk[0]), int(chunk[-1]) + 1)
            logits = backend.loss_logits(hidden[part], weight)
            target = labels[part, None]
            log_sums = logits.logsumexp(-1, keepdim=True)
            loss += (log_sums - logits.gather(-1, target)).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            grad = logits.sub_(log_sums).exp_()
            grad.scatter_add_(-1, target, torch.full_like(log_sums, -1.0))
            if grad_hidden is not None:
                grad_hidden[part] = backend.dense_linear_gradient(grad, weight, hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad.t(), hidden[part].float())
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_weight = (None if one is None else one * grad_loss for one in ctx.saved_tensors)
        return grad_hidden, grad_weight, None, None
