"""How far a run is: every calibration batch that goes through a block, and every solved linear, is a step.

The work of a step is estimated in multiply-adds, so that equal parts of it take about equal time: all blocks alike,
large linears longer than small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwartet.checkpoint.layout import LINEARS, Layout
from qwartet.quantize.block import STEPS


@dataclass(frozen=True)
class QuantizeProgress:
    """The state after a step; blocks that an earlier run finished count neither as done nor in the total."""

    layer: int
    num_layers: int
    doing: str  # "attention.qkv, batch 3 of 64"
    work_done: int
    work_total: int
    is_block_done: bool = False
    is_resumed: bool = False  # the block was finished by an earlier run


OnProgress = Callable[[QuantizeProgress], None]


class RunProgress:
    """Adds up the work of a run and reports every step."""

    def __init__(self, layout: Layout, batch_tokens: Sequence[int], on_progress: OnProgress) -> None:
        self._shapes = {linear: layout[f"layers.0.{linear}"].shape for linear in LINEARS}
        self._num_layers, self._batch_tokens, self._on_progress = layout.num_layers, batch_tokens, on_progress
        tokens = sum(batch_tokens)
        gather = sum(tokens * self._gather(index) for index in range(len(STEPS)))
        self._block = gather + sum(map(self._solve, LINEARS))
        # Of a token through the block: what is left of it after the last step, or all of it in a restored block.
        self._rest, self._whole = self._forward(STEPS[-1:]), self._forward(STEPS)
        self._pass = self._rest
        self._done, self._total = 0, self._num_layers * (self._block + tokens * self._rest) - tokens * self._rest

    def gathered(self, layer: int, linear: str, batch: int) -> None:
        """A batch has been added to the Hessian of the step that begins with `linear`."""
        step = next(index for index, step in enumerate(STEPS) if linear in step)
        self._report(layer, self._batch(linear, batch), self._batch_tokens[batch] * self._gather(step))

    def solved(self, layer: int, linear: str) -> None:
        """A linear has been quantised."""
        self._report(layer, f"{linear} quantised", self._solve(linear))

    def advanced(self, layer: int, batch: int) -> None:
        """A batch has gone through the quantised block."""
        self._report(layer, self._batch("passing on", batch), self._batch_tokens[batch] * self._pass)

    def finished(self, layer: int, *, is_resumed: bool) -> None:
        """The linears of a block are complete, in this run or an earlier one."""
        self._pass = self._whole if is_resumed else self._rest
        if is_resumed:
            self._total -= self._block
            if layer + 1 < self._num_layers:
                self._total += sum(self._batch_tokens) * (self._whole - self._rest)
        self._report(layer, "done", 0, is_block_done=True, is_resumed=is_resumed)

    def writing(self) -> None:
        """All blocks are complete; the checkpoint is being written."""
        self._report(self._num_layers - 1, "writing the checkpoint", 0)

    def _report(self, layer: int, doing: str, work: int, **flags: bool) -> None:
        self._done += work
        self._on_progress(QuantizeProgress(layer, self._num_layers, doing, self._done, self._total, **flags))

    def _batch(self, what: str, batch: int) -> str:
        return f"{what}, batch {batch + 1} of {len(self._batch_tokens)}"

    def _forward(self, steps: Sequence[Sequence[str]]) -> int:
        """Work of one token in the linears of some steps."""
        return sum(out * into for step in steps for out, into in (self._shapes[linear] for linear in step))

    def _gather(self, step: int) -> int:
        """Work of one token for the Hessian of a step: the linears before it, and a triangle of products."""
        return self._forward(STEPS[max(step - 1, 0) : step]) + self._shapes[STEPS[step][0]][1] ** 2 // 2

    def _solve(self, linear: str) -> int:
        """The factor of the Hessian, which the linears of a step share, and the propagation of errors."""
        out_features, in_features = self._shapes[linear]
        return in_features**3 // 3 + in_features**2 * out_features // 2
