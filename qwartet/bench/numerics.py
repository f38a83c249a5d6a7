"""How far the native kernels are from the network in fp32, in terms that users can see: probabilities and top-1 tokens.

    KL        sum_v p(v) ln(p(v) / q(v))       p: fp32 reference, q: the kernels; nats, at each position
    margin    the difference of the reference's two largest logits: the log of how much likelier the first token is
    top-1     whether both have the same most probable token; counted where the margin exceeds 0.4

All compute with the same quantised weights; the reference dequantises them and multiplies in fp32. Two rows accompany
the native kernels. The reference in bf16, as the published code computes, shows what bf16 alone costs. The control,
fp32 except for the inputs of quantised weights, which always have 8 bits, shows whether text and outliers would reveal
a difference. Everything is measured twice: with the checkpoint as it is, and with outliers in its activations
(bench/outliers.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwartet.bench.contexts import SeenContexts, batches, blocks_of_longest, cached_batch
from qwartet.bench.outliers import write_outliers
from qwartet.engine.runner import ModelRunner
from qwartet.errors import SettingError
from qwartet.kernels.backend import Backend, PreparedWeight
from qwartet.kernels.cache_layer import CacheDtype
from qwartet.kernels.cpu.library import native_library, unavailable_reason
from qwartet.layers.kv_cache import BLOCK_SIZE
from qwartet.layers.linear import QuantizedLinear
from qwartet.models.families import load_config
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel

MARGIN = 0.4  # logits
MAX_MEAN_KL = 1e-3  # nats
MIN_AGREEMENT = 0.999
BF16_REFERENCE = "bf16 reference"
CONTROL = "control: 8 bits"
NATIVE = {"exact": "native, exact", "int8": "native, int8"}
ROWS_AT_ONCE = 128  # of logits in fp64
GROUP = 128  # inputs that share a scale in the control, as in the native kernels
Log = Callable[[str], None]
LogitsOf = Callable[[Sequence[Sequence[int]]], Tensor]  # examples -> logits [T, V] fp32 at all of their positions


def kl_divergence(reference: Tensor, other: Tensor) -> Tensor:
    """KL of the distributions given by two tensors of logits [R, V]: fp64 [R], in nats."""
    parts = []
    for pair in zip(torch.split(reference, ROWS_AT_ONCE), torch.split(other, ROWS_AT_ONCE), strict=True):
        p, q = (logits.double().log_softmax(-1) for logits in pair)
        parts.append((p.exp() * (p - q)).sum(-1).clamp(min=0))
    return torch.cat(parts)


def margins(logits: Tensor) -> Tensor:
    """The largest logit less the second, for each row of [R, V]."""
    largest = logits.topk(2, dim=-1).values
    return largest[:, 0] - largest[:, 1]


@dataclass(frozen=True)
class Agreement:
    """How a way of computing agrees with the reference."""

    num_positions: int
    mean_kl: float  # nats
    p999_kl: float  # 99.9 % of the positions are at or below it
    max_kl: float
    num_clear: int  # positions whose margin exceeds MARGIN
    num_same: int  # of these, those with the same most probable token

    @property
    def clear_share(self) -> float:
        """Positions with a clear first choice, as a share of all."""
        return self.num_clear / self.num_positions

    @property
    def top1(self) -> float:
        """The same first choice, as a share of the clear positions."""
        return self.num_same / self.num_clear if self.num_clear else 1.0

    @property
    def is_within_bounds(self) -> bool:
        """Whether mean KL and top-1 meet the project's bounds for every mode."""
        return self.mean_kl <= MAX_MEAN_KL and self.top1 >= MIN_AGREEMENT

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "top1": self.top1, "is_within_bounds": self.is_within_bounds}


class Tally:
    """Collects positions; `agreement` sums them up."""

    def __init__(self) -> None:
        self._kl: list[Tensor] = []
        self._num_clear = self._num_same = 0

    def add(self, reference: Tensor, other: Tensor) -> None:
        """Logits [R, V] of the same positions. Non-finite logits count as infinitely far."""
        self._kl.append(kl_divergence(reference, other).nan_to_num(nan=torch.inf))
        is_clear = margins(reference) > MARGIN
        self._num_clear += int(is_clear.sum())
        self._num_same += int((is_clear & (reference.argmax(-1) == other.argmax(-1))).sum())

    def agreement(self) -> Agreement:
        """The figures of all positions so far."""
        kl = torch.cat(self._kl).sort().values
        at_999 = kl[-(-999 * len(kl) // 1000) - 1]
        return Agreement(len(kl), float(kl.mean()), float(at_999), float(kl[-1]), self._num_clear, self._num_same)


def variants_dict(variants: dict[str, dict[str, Agreement]]) -> dict[str, Any]:
    """Agreement by row and variant as plain values, ready for JSON."""
    return {name: {row: found.to_dict() for row, found in rows.items()} for name, rows in variants.items()}


@dataclass(frozen=True)
class NumericsReport:
    """Agreement by way of computing, for each variant of the checkpoint: "as it is" and "outliers"."""

    isa: str  # of the native kernels
    num_conversations: int  # of the text; the last ones may not have been needed
    variants: dict[str, dict[str, Agreement]]

    def survivors(self) -> list[str]:
        """The kinds of activations that stay within the bounds in every variant."""
        variants = self.variants.values()
        return [kind for kind, row in NATIVE.items() if all(rows[row].is_within_bounds for rows in variants)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        bounds = {"margin": MARGIN, "max_mean_kl": MAX_MEAN_KL, "min_top1": MIN_AGREEMENT}
        return {
            "isa": self.isa,
            "num_conversations": self.num_conversations,
            "bounds": bounds,
            "variants": variants_dict(self.variants),
            "survivors": self.survivors(),
        }


def load_reference(directory: Path, dtype: torch.dtype = torch.float32) -> QwenModel:
    """The network on the reference kernels, also in bf16, where `load_model` would take the native ones."""
    model = load_model(directory, dtype="fp32", device="cpu")
    for parameter in model.parameters():  # quantised weights are not parameters: the kernel dequantises to x's dtype
        parameter.data = parameter.data.to(dtype)
    return model


def load_control(directory: Path) -> QwenModel:
    """The fp32 reference, but with the inputs of all quantised weights rounded to 8 bits."""
    model = load_reference(directory)
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.backend = _RoundedInputs()
    return model


class _RoundedInputs(Backend):
    """The references, with the inputs of quantised weights rounded to 8 bits."""

    def quantized_linear(self, x: Tensor, weight: PreparedWeight) -> Tensor:
        return super().quantized_linear(round_to_int8(x), weight)


def round_to_int8(x: Tensor) -> Tensor:
    """x [..., K], each group of 128 inputs rounded to 255 equal steps around 0."""
    groups = torch.split(x, GROUP, dim=-1)
    scales = [group.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127 for group in groups]
    return torch.cat([torch.round(group / scale) * scale for group, scale in zip(groups, scales, strict=True)], dim=-1)


@torch.inference_mode()
def logits_of(model: QwenModel, examples: Sequence[Sequence[int]], *, cache_dtype: CacheDtype | None = None) -> Tensor:
    """Logits [T, V] fp32 at all positions of some examples, through a KV cache; None: in the network's own dtype."""
    num_blocks, dtype = len(examples) * blocks_of_longest(examples), cache_dtype or model.dtype
    hidden = ModelRunner(model, num_blocks, BLOCK_SIZE, dtype).run(cached_batch(examples, model.config.position))
    logits: Tensor = model.lm_head(hidden)
    return logits.float()


def compare(
    reference: LogitsOf,
    others: dict[str, LogitsOf],
    examples: Sequence[Sequence[int]],
    num_positions: int,
    num_valid: int,
    on_positions: Callable[[int], None] = lambda _count: None,
) -> dict[str, Agreement]:
    """Agreement of each way of computing with the reference, over `num_positions` contexts and ids below `num_valid`.

    on_positions is called after each batch with the number of positions done.
    """
    tallies = {name: Tally() for name in others}
    num_done = 0
    for contexts in batches(examples, num_positions):
        expected = reference(contexts.examples)[contexts.is_new, :num_valid]
        for name, other in others.items():
            tallies[name].add(expected, other(contexts.examples)[contexts.is_new, :num_valid])
        num_done += len(expected)
        on_positions(num_done)
    return {name: tally.agreement() for name, tally in tallies.items()}


def measure_numerics(
    model: Path, examples: Sequence[Sequence[int]], num_positions: int, num_valid: int, log: Log = lambda _text: None
) -> NumericsReport:
    """Compares the native kernels with the reference on a quantised checkpoint, as it is and with outliers.

    examples: token ids, one list a conversation. SettingError if a comparison is impossible, CheckpointError for a
    broken checkpoint.
    """
    library = native_library()
    if library is None:
        raise SettingError(f"there are no native kernels to compare: {unavailable_reason()}")
    check_positions(model, examples, num_positions)
    variants = {}
    with tempfile.TemporaryDirectory() as folder:
        outliers = Path(folder) / "outliers"
        write_outliers(model, outliers)
        for variant, directory in (("as it is", model), ("outliers", outliers)):
            variants[variant] = compare(
                partial(logits_of, load_reference(directory)),
                {name: partial(logits_of, network) for name, network in _rows(directory).items()},
                examples,
                num_positions,
                num_valid,
                Progress(variant, num_positions, log).show,
            )
    return NumericsReport(library.isa, len(examples), variants)


def _rows(directory: Path) -> dict[str, QwenModel]:
    """What is compared with the reference, in the order of the table."""
    rows = {BF16_REFERENCE: load_reference(directory, torch.bfloat16)}
    for activations, name in NATIVE.items():  # no cache of packed weights: the copy with outliers is soon gone
        rows[name] = load_model(
            directory, dtype="bf16", device="cpu", activations=activations, head="exact", weight_cache=False
        )
    return {**rows, CONTROL: load_control(directory)}


def check_positions(model: Path, examples: Sequence[Sequence[int]], num_positions: int) -> None:
    """SettingError if the examples do not suit the model or have fewer positions than requested."""
    config = load_config(model)
    if num_positions < 1:
        raise SettingError(f"positions is {num_positions}; it must be at least 1")
    seen = SeenContexts()
    for ids in examples:
        if len(ids) > config.position.max_length:
            raise SettingError(f"an example has {len(ids)} tokens; this model's limit is {config.position.max_length}")
        if bad := [token for token in ids if not 0 <= token < config.vocab_size]:
            raise SettingError(f"the text holds the id {bad[0]}; ids of this model are 0 to {config.vocab_size - 1}")
        seen.add(ids)
    if len(seen) < num_positions:
        reason = f"the text has {len(seen)} different positions, but {num_positions} are needed"
        raise SettingError(f"{reason}; use more text, or --positions {len(seen)}")


class Progress:
    """Logs every 10 % of the positions."""

    def __init__(self, variant: str, total: int, log: Log) -> None:
        self._variant, self._total, self._log = variant, total, log
        self._num_tenths = 0

    def show(self, num_done: int) -> None:
        num_tenths = 10 * num_done // self._total
        if num_tenths > self._num_tenths:
            self._log(f"{self._variant}: {num_done} of {self._total} positions")
        self._num_tenths = num_tenths
