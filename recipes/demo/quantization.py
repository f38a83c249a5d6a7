"""What the options of `qwartet quantize` gain on a float parent of the bundled model, as the table of the documents.

    python -m recipes.demo.quantization PARENT [--out build/quantization] [--conversations 300]

Each row is one quantised model: the mean KL divergence from the parent, in nats per token of held-out conversations,
computed in fp32, with its ratio to the settings of the published checkpoints. Results in --out are kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel
from qwartet.quant_format.config import GptqConfig
from qwartet.quantize.calibration import builtin_calibration
from qwartet.quantize.pipeline import QuantizeOptions, quantize_checkpoint
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo.dataset import encode
from recipes.demo.heldout import held_out
from recipes.demo.make import calibration_ids

MAX_TOKENS = 1024
ALWAYS = 1e9  # more tokens per input than any calibration has: everything is rounded to nearest


@dataclass(frozen=True)
class Variant:
    """One way to quantise."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)  # of GptqConfig
    options: dict[str, Any] = field(default_factory=dict)  # of QuantizeOptions
    calibration: str = "training"  # or "builtin", or a number of training conversations
    dtype: Any = "fp32"


VARIANTS = (
    Variant("the published settings"),  # first: the others are compared with it
    Variant("rounding to nearest", options={"starved_below": ALWAYS}),
    Variant("rounding to nearest, --search-scales", options={"starved_below": ALWAYS, "search_scales": True}),
    Variant("--act-group-aware", options={"act_group_aware": True}),
    Variant("--search-scales", options={"search_scales": True}),
    Variant("--act-group-aware --search-scales", options={"act_group_aware": True, "search_scales": True}),
    Variant("--desc-act", settings={"desc_act": True}),
    Variant("--damp-percent 0.05", settings={"damp_percent": 0.05}),
    Variant("--damp-percent 0.002", settings={"damp_percent": 0.002}),
    Variant("--dtype bf16", dtype="bf16"),
    Variant("--calibration builtin", calibration="builtin"),
    Variant("4 conversations", calibration="4"),
    Variant("16 conversations", calibration="16"),
    Variant("64 conversations", calibration="64"),
    Variant("4 conversations, --starved-below 1", options={"starved_below": 1.0}, calibration="4"),
    Variant("4 conversations, --auto-damp", options={"auto_damp": True}, calibration="4"),
    Variant("16 conversations, --auto-damp", options={"auto_damp": True}, calibration="16"),
    Variant("64 conversations, --auto-damp", options={"auto_damp": True}, calibration="64"),
    Variant("builtin, --auto-damp", options={"auto_damp": True}, calibration="builtin"),
    Variant("--auto-damp", options={"auto_damp": True}),
    Variant(
        "builtin, --act-group-aware --search-scales",
        options={"act_group_aware": True, "search_scales": True},
        calibration="builtin",
    ),
)


def examples_of(variant: Variant, parent: Path, training: list[list[int]]) -> list[list[int]]:
    """The calibration of a variant."""
    if variant.calibration == "builtin":
        return builtin_calibration().examples(parent, num_samples=128, max_len=2048)
    return training if variant.calibration == "training" else training[: int(variant.calibration)]


@torch.no_grad()
def log_probabilities(model: QwenModel, examples: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """[T, V] for each example."""
    for ids in examples:
        yield model(dense_batch([ids], model.config.position)).log_softmax(-1)


def mean_kl(parent: QwenModel, other: QwenModel, examples: Sequence[Sequence[int]]) -> float:
    """Of all tokens, in nats."""
    total, count = 0.0, 0
    for p, q in zip(log_probabilities(parent, examples), log_probabilities(other, examples), strict=True):
        total += float((p.exp() * (p - q)).sum())
        count += len(p)
    return total / count


def main() -> None:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parent", type=Path, help="directory of the bf16 model, such as build/demo/preferences")
    parser.add_argument("--out", type=Path, default=Path("build/quantization"))
    parser.add_argument("--conversations", type=int, default=300)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8])
    arguments = parser.parse_args()
    tokenizer = TiktokenTokenizer.load(arguments.parent)
    encoded = (encode(tokenizer, one, MAX_TOKENS) for one in held_out(arguments.conversations))
    examples = [example.ids.tolist() for example in encoded if example is not None]
    training, parent = calibration_ids(tokenizer), load_model(arguments.parent, dtype="fp32")
    print(f"{len(examples)} held-out conversations, {sum(map(len, examples)):,} tokens\n")
    print("| bits | settings | calibration tokens | mean KL | of the published settings | seconds |")
    print("|---|---|---|---|---|---|")
    for bits in arguments.bits:
        published = None
        for number, variant in enumerate(VARIANTS):
            target = arguments.out / f"int{bits}-{number:02}"
            calibration, started = examples_of(variant, arguments.parent, training), time.perf_counter()
            if not target.exists():
                settings = {"group_size": 128, "desc_act": False, "sym": True, **variant.settings}
                config, options = GptqConfig(bits=bits, **settings), QuantizeOptions(**variant.options)
                quantize_checkpoint(arguments.parent, target, config, calibration, options=options, dtype=variant.dtype)
            seconds = time.perf_counter() - started
            kl = mean_kl(parent, load_model(target, dtype="fp32"), examples)
            published = published or kl
            tokens = sum(map(len, calibration))
            row = (variant.name, f"{tokens:,}", f"{kl:.5f}", f"{kl / published:.3f}", f"{seconds:.0f}")
            print(f"| {bits} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
