"""How much memory fine-tuning needs on a CPU, row by row, before anything is loaded.

    weights + adapter + gradients + AdamW + activations + loss + the process itself

    qlora   GPTQ weights as the kernels hold them, an adapter in fp32
    lora    weights in bf16, an adapter in fp32
    full    everything in fp32, everything trained

With gradient checkpointing only the input of every block is kept, and one block is recomputed at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from qwartet.errors import SettingError
from qwartet.layers.cross_entropy import LOGITS
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of
from qwartet.planning.memory_plan import NetworkMemory

Method = Literal["qlora", "lora", "full"]
MODULES_BYTES = 300 << 20  # transformers, PEFT, and the code of torch's training; beyond a process of `plan`
# Fp32 matrices of a chunk of logits: themselves, torch's logsumexp, and the native kernels' copy of their gradient.
LOGITS_COPIES = 3
# Values that a block keeps for its backward pass, fp32 unless said otherwise, in units of its widths: two norms with
# their inputs (4), the adapters' inputs (4), queries, keys, values and heads (4); of the feed-forward two linears and
# their silu in bf16 (6 bytes) and the input of the last adapter.
HIDDEN_VALUES = 12
INTERMEDIATE_BYTES = 10
# A frozen embedding stays in its file, of which the system maps this much around every row that is read.
MAPPED_AROUND_ROW = 16 * 4096
# Gradients and temporary fp32 copies of the widest output while a block is worked on.
WIDEST_COPIES = 6


@dataclass(frozen=True)
class FinetuneLoad:
    """What is trained, and on how much at a time."""

    method: Method
    context: int  # tokens per sequence
    batch_size: int = 1
    rank: int = 64
    gradient_checkpointing: bool = True

    def check(self, config: ModelConfig) -> None:
        """SettingError for sizes that the model or a trainer does not support."""
        most = config.position.max_length
        if not 2 <= self.context <= most:
            raise SettingError(f"context is {self.context} tokens; with this model it must be between 2 and {most}")
        if self.batch_size < 1 or not 1 <= self.rank <= config.hidden_size:
            raise SettingError(
                f"batch size is {self.batch_size} and rank {self.rank}; both must be at least 1, the rank at most "
                f"{config.hidden_size}"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of a step."""
        return self.context * self.batch_size


@dataclass(frozen=True)
class FinetunePlan:
    """A network under a training load, in a process of `process_bytes`."""

    network: NetworkMemory
    load: FinetuneLoad
    process_bytes: int
    free_bytes: int

    @cached_property
    def num_trained(self) -> int:
        """Parameters that are trained."""
        layout, load = layout_of(self.network.config), self.load
        if load.method != "full":
            return load.rank * sum(sum(spec.shape) for spec in layout if spec.kind == "linear")
        return sum(self.network.weights.values()) // self.network.settings.dtype.itemsize

    @property
    def activation_bytes(self) -> int:
        """What is kept for the backward pass, and what a block works with."""
        config, load = self.network.config, self.load
        hidden, width = config.hidden_size, config.intermediate_size
        block = load.num_tokens * (4 * HIDDEN_VALUES * hidden + INTERMEDIATE_BYTES * width)
        inputs = 4 * load.num_tokens * hidden * config.num_layers
        kept = inputs + block if load.gradient_checkpointing else config.num_layers * block
        return kept + WIDEST_COPIES * 4 * load.num_tokens * max(3 * hidden, width)

    @property
    def loss_bytes(self) -> int:
        """Logits of a chunk, and their copies."""
        rows = min(self.load.num_tokens, -(-LOGITS // self.network.config.vocab_size))
        return LOGITS_COPIES * 4 * rows * self.network.config.vocab_size

    @property
    def rows(self) -> dict[str, int]:
        """What takes memory, in bytes; empty rows are left out."""
        is_full = self.load.method == "full"
        scale = 4 // self.network.settings.dtype.itemsize if is_full else 1
        trained = 4 * self.num_trained
        weights = {name: size * scale for name, size in self.network.weights.items()}
        if not is_full:
            weights["embedding"] = min(weights["embedding"], self.load.num_tokens * MAPPED_AROUND_ROW)
        rows = {
            **weights,
            "rotary tables": self.network.rotary_bytes,
            "adapter": 0 if is_full else trained,
            "gradients": trained,
            "AdamW": 2 * trained,
            "activations": self.activation_bytes,
            "logits": self.loss_bytes,
            "the process itself": self.process_bytes + MODULES_BYTES,
        }
        return {name: size for name, size in rows.items() if size}

    @property
    def total_bytes(self) -> int:
        return sum(self.rows.values())

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.free_bytes

    def smaller(self) -> list[str]:
        """Options that would need less memory."""
        load = self.load
        options = [] if load.gradient_checkpointing else ["--gradient-checkpointing"]
        options += [f"--batch-size {load.batch_size // 2}"] if load.batch_size > 1 else []
        options += [f"--context {load.context // 2}"] if load.context > 256 else []
        return options + (["--finetune lora"] if load.method == "full" else [])
