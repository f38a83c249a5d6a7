"""Published speed and memory of the first generation: 2,048 generated tokens on A100-SXM4-80G GPUs.

Sources: the model card of Qwen-72B-Chat-Int4 (72B; Hugging Face Transformers with and without FlashAttention, and
vLLM), the README of the Qwen repository (other sizes, one GPU, a prompt of one token; its 11.32 tokens/s for 72B Int4
are on the card the speed without FlashAttention). Speed is generated tokens over the whole time, prefill included.
The published "GB" are GiB: the script divides torch.cuda.max_memory_allocated by 1024**3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwartet.models.shapes import Precision, ShapeName

GENERATED_TOKENS = 2048
Engine = Literal["transformers", "vllm"]
Attention = Literal["FlashAttn-v2", "FlashAttn-v1", "No FlashAttn"]


@dataclass(frozen=True)
class PublishedRun:
    """One row: a checkpoint, a prompt of `prompt_tokens`, and the measured figures."""

    size: ShapeName
    precision: Precision
    engine: Engine
    num_gpus: int
    prompt_tokens: int
    tokens_per_s: float | None  # None where it ran out of memory
    memory_gib: float | None  # over all GPUs; None where vLLM allocates all of it beforehand, or it ran out
    attention: Attention = "FlashAttn-v2"  # of transformers

    @property
    def setting(self) -> str:
        """As in the card's column of this name."""
        return "vLLM" if self.engine == "vllm" else f"HF + {self.attention}"


PUBLISHED_RUNS = (
    PublishedRun("1.8b", "bf16", "transformers", 1, 1, 54.09, 4.23),
    PublishedRun("1.8b", "int8", "transformers", 1, 1, 55.56, 3.48),
    PublishedRun("1.8b", "int4", "transformers", 1, 1, 71.07, 2.91),
    PublishedRun("7b", "bf16", "transformers", 1, 1, 40.93, 16.99),
    PublishedRun("7b", "int8", "transformers", 1, 1, 37.47, 11.20),
    PublishedRun("7b", "int4", "transformers", 1, 1, 50.09, 8.21),
    PublishedRun("14b", "bf16", "transformers", 1, 1, 32.22, 30.15),
    PublishedRun("14b", "int8", "transformers", 1, 1, 29.28, 18.81),
    PublishedRun("14b", "int4", "transformers", 1, 1, 38.72, 13.01),
    PublishedRun("72b", "bf16", "transformers", 2, 1, 8.48, 144.69),
    PublishedRun("72b", "bf16", "transformers", 2, 1, 8.31, 144.69, "FlashAttn-v1"),
    PublishedRun("72b", "bf16", "transformers", 2, 1, 7.89, 144.69, "No FlashAttn"),
    PublishedRun("72b", "bf16", "transformers", 4, 6144, 5.37, 181.47),
    PublishedRun("72b", "bf16", "transformers", 4, 6144, 4.96, 181.47, "FlashAttn-v1"),
    PublishedRun("72b", "bf16", "transformers", 4, 6144, 4.72, 202.74, "No FlashAttn"),
    PublishedRun("72b", "bf16", "vllm", 2, 1, 17.60, None),
    PublishedRun("72b", "bf16", "vllm", 4, 1, 26.16, None),
    PublishedRun("72b", "bf16", "vllm", 4, 6144, 24.41, None),
    PublishedRun("72b", "bf16", "vllm", 4, 14_336, 21.24, None),
    PublishedRun("72b", "bf16", "vllm", 4, 30_720, 17.55, None),
    PublishedRun("72b", "int8", "transformers", 2, 1, 9.05, 81.27),
    PublishedRun("72b", "int8", "transformers", 2, 1, 8.97, 81.27, "FlashAttn-v1"),
    PublishedRun("72b", "int8", "transformers", 2, 1, 8.32, 81.27, "No FlashAttn"),
    PublishedRun("72b", "int8", "transformers", 3, 6144, 5.76, 118.06),
    PublishedRun("72b", "int8", "transformers", 3, 6144, 5.72, 118.06, "FlashAttn-v1"),
    PublishedRun("72b", "int8", "transformers", 2, 6144, 4.50, 129.83, "No FlashAttn"),
    PublishedRun("72b", "int8", "transformers", 4, 14_336, 3.44, 180.44),
    PublishedRun("72b", "int8", "transformers", 4, 14_336, 3.19, 180.44, "FlashAttn-v1"),
    PublishedRun("72b", "int8", "transformers", 4, 14_336, None, None, "No FlashAttn"),
    PublishedRun("72b", "int4", "transformers", 1, 1, 11.67, 48.86),
    PublishedRun("72b", "int4", "transformers", 1, 1, 11.27, 48.86, "FlashAttn-v1"),
    PublishedRun("72b", "int4", "transformers", 1, 1, 11.32, 48.86, "No FlashAttn"),
    PublishedRun("72b", "int4", "transformers", 2, 6144, 6.75, 85.99),
    PublishedRun("72b", "int4", "transformers", 2, 6144, 6.32, 85.99, "FlashAttn-v1"),
    PublishedRun("72b", "int4", "transformers", 2, 6144, 5.97, 88.30, "No FlashAttn"),
    PublishedRun("72b", "int4", "transformers", 3, 14_336, 4.18, 148.73),
    PublishedRun("72b", "int4", "transformers", 3, 14_336, 3.72, 148.73, "FlashAttn-v1"),
    PublishedRun("72b", "int4", "transformers", 3, 14_336, None, None, "No FlashAttn"),
    PublishedRun("72b", "int4", "vllm", 1, 1, 14.63, None),
    PublishedRun("72b", "int4", "vllm", 2, 1, 20.76, None),
    PublishedRun("72b", "int4", "vllm", 4, 1, 27.19, None),
    PublishedRun("72b", "int4", "vllm", 2, 6144, 18.07, None),
    PublishedRun("72b", "int4", "vllm", 4, 6144, 24.56, None),
    PublishedRun("72b", "int4", "vllm", 2, 14_336, 14.51, None),
    PublishedRun("72b", "int4", "vllm", 4, 14_336, 19.28, None),
    PublishedRun("72b", "int4", "vllm", 4, 30_720, 16.93, None),
)


def published_runs(size: str, precision: str) -> list[PublishedRun]:
    """The fastest rows of one checkpoint, vLLM's and those with FlashAttention 2, shortest prompt first."""
    rows = [
        run for run in PUBLISHED_RUNS if (run.size, run.precision, run.attention) == (size, precision, "FlashAttn-v2")
    ]
    return sorted(rows, key=lambda run: (run.prompt_tokens, run.engine, run.num_gpus))
