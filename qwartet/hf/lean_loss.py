"""The loss of causal language modelling as transformers computes it, from the head's input instead of all logits."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.layers.cross_entropy import cross_entropy_sum
from qwartet.layers.head import Head
from qwartet.tokenizer.chatml import IGNORED_LABEL


def lean_loss(
    head: nn.Module,
    values: Tensor,
    is_token: Tensor,
    labels: Tensor,
    *,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Tensor | None = None,
    **_others: Any,
) -> Tensor:
    """The mean over labels [B, L] that are not -100, for the head's input [R, C] of the tokens in is_token [B, L].

    `num_items_in_batch` replaces their number, for gradient accumulation; `shift_labels` replace the shifted labels.
    """
    targets = F.pad(labels, (0, 1), value=IGNORED_LABEL)[:, 1:] if shift_labels is None else shift_labels
    targets = targets.to(values.device)
    is_token = is_token.to(values.device)
    counted = targets != IGNORED_LABEL
    of_values = targets[is_token]
    if isinstance(head, Head) and "_hf_hook" not in head.__dict__:
        total = cross_entropy_sum(values, head.weight, of_values, head.backend)
        vocab_size = head.out_features
    else:  # adapted, or kept elsewhere: only the module itself knows its logits
        logits = head(values[of_values != IGNORED_LABEL]).float()
        total = F.cross_entropy(logits, of_values[of_values != IGNORED_LABEL], reduction="sum")
        vocab_size = logits.shape[-1]
    # Padding has logits of 0 in the result of the model.
    total = total + (counted & ~is_token).sum() * math.log(vocab_size)
    count = counted.sum() if num_items_in_batch is None else num_items_in_batch
    return total / count
