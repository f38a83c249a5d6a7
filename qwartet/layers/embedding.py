"""Token ids to the start of the residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from qwartet.kernels.backend import REFERENCE, Backend


class Embedding(nn.Embedding):
    """A row of weight [V, C] for each id, in fp32 whatever the weight's dtype."""

    def __init__(self, num_embeddings: int, size: int, backend: Backend = REFERENCE) -> None:
        super().__init__(num_embeddings, size)
        self.backend = backend

    def reset_parameters(self) -> None:
        """Leaves them uninitialised: a checkpoint, or QwenModel.initialize, fills them."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.backend.embed(ids, self.weight)
