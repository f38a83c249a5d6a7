"""The network of models/qwen.py under its published module names, which transformers' tools look for.

    network           published                 network               published
    embedding         transformer.wte           attention.output      attn.c_proj
    layers.{i}        transformer.h.{i}         mlp_norm              ln_2
    attention_norm    ln_1                      mlp.up, mlp.gate      mlp.w1, mlp.w2
    attention.qkv     attn.c_attn               mlp.down              mlp.c_proj
    norm              transformer.ln_f

The classes derive from the network's and compute with its code: a module is registered under its published name, and
the network's own name for it is an alias. So the network also runs what a tool puts in a module's place, for example
an adapter of PEFT in that of c_attn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qwartet.hf.backend import ChoosingBackend
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.embedding import Embedding
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.rms_norm import RMSNorm
from qwartet.layers.rotary import RotaryTable
from qwartet.models.config import ModelConfig
from qwartet.models.qwen import MLP, Attention, DecoderLayer


class PublishedNames(nn.Module):
    """Registers modules under other names than those by which the class uses them."""

    published: ClassVar[Mapping[str, str]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(self.published.get(name, name), value)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(self.published.get(name, name))


class QWenAttention(PublishedNames, Attention):
    """Self-attention of one block."""

    published: ClassVar[Mapping[str, str]] = {"qkv": "c_attn", "output": "c_proj"}

    def forward(self, x: Tensor, rotary: RotaryTable, batch: Any, cache: Any) -> Tensor:
        """As the network's; a batch that brings an attention of its own is asked for it (padded_batch.py)."""
        if isinstance(batch, ForwardBatch):
            return super().forward(x, rotary, batch, cache)
        heads = batch.attend(self.layer, self.num_heads, self.head_dim, self.qkv(x), rotary)
        return self.output(heads)  # type: ignore[no-any-return]


class QWenMLP(PublishedNames, MLP):
    """SwiGLU feed-forward of one block."""

    published: ClassVar[Mapping[str, str]] = {"up": "w1", "gate": "w2", "down": "c_proj"}


class QWenBlock(PublishedNames, DecoderLayer):
    """One residual block. The tables and the batch follow it to its device."""

    published: ClassVar[Mapping[str, str]] = {"attention_norm": "ln_1", "attention": "attn", "mlp_norm": "ln_2"}
    attention_class = QWenAttention
    mlp_class = QWenMLP

    def forward(self, x: Tensor, rotary: Any, batch: Any, cache: Any) -> Tensor:
        return super().forward(x, rotary.on(x.device), batch.on(x.device), cache)


class RotaryTables:
    """The cos and sin tables, one copy for each device that asks for one; neither saved nor moved with the model."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[torch.device, RotaryTable] = {}

    def on(self, device: torch.device) -> RotaryTable:
        """The table of a device."""
        if device not in self._tables:
            with torch.device(device):  # not the meta device, on which transformers builds a model
                self._tables[device] = RotaryTable(self._config.position, device)
        return self._tables[device]

    @property
    def cos(self) -> Tensor:
        """On the CPU, for blocks that run in one call."""
        return self.on(torch.device("cpu")).cos

    @property
    def sin(self) -> Tensor:
        return self.on(torch.device("cpu")).sin

    def __deepcopy__(self, memo: dict[int, Any]) -> RotaryTables:
        return self  # constants


class QWenModel(PublishedNames):
    """Embedding, blocks and final norm: everything below lm_head."""

    published: ClassVar[Mapping[str, str]] = {"embedding": "wte", "layers": "h", "norm": "ln_f"}

    def __init__(self, config: ModelConfig, backend: ChoosingBackend) -> None:
        super().__init__()
        self.network_config, self.backend = config, backend
        self.rotary = RotaryTables(config)
        self.embedding = Embedding(config.vocab_size, config.hidden_size, backend)
        self.layers = nn.ModuleList(QWenBlock(config, layer, backend) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, backend)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, batch: Any, cache: KVCache | None, on_hidden: Callable[[Tensor], None]) -> Tensor:
        """The head's input [R, C] from embedded tokens x [T, C]; `on_hidden` receives x before every block."""
        for layer in self.layers:
            on_hidden(x)
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(layer.__call__, x, self.rotary, batch, cache)
            else:
                x = layer(x, self.rotary, batch, cache)
        return self.normed(x, batch)

    def blocks(self, x: Tensor, batch: Any, cache: KVCache | None = None) -> Tensor:
        """The same without a listener."""
        return self(x, batch, cache, _ignore)  # type: ignore[no-any-return]

    def normed(self, x: Tensor, batch: Any) -> Tensor:
        """The rows of x [T, C] whose logits are needed, normed for the head -> [R, C]."""
        return self.norm(x if batch.logits_index is None else x[batch.logits_index.to(x.device)])  # type: ignore[no-any-return]


def _ignore(x: Tensor) -> None:
    """Nothing is done with hidden states."""
