"""Finished blocks, kept as files until the complete checkpoint is written, so that a killed run can be resumed.

A file carries the fingerprint of everything that its content depends on: the settings, the calibration, the
embedding, and the float tensors of its own and of all earlier blocks. A file with another fingerprint, or an unreadable
one, is ignored; hours of finished blocks are not overwritten by a run with other settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.writer import save_tensors
from qwartet.errors import SettingError
from qwartet.files import atomic_write
from qwartet.quantize.writer import HINT


@dataclass(frozen=True)
class QuantizeEvent:
    """One quantised linear: its error, and how long it took."""

    layer: int
    num_layers: int
    linear: str  # "attention.qkv", ...
    loss: float  # squared output error of a calibration token, summed over the outputs
    damp_percent: float  # more than requested for a singular Hessian, and with auto_damp
    seconds: float  # for its Hessian, where it has one of its own, and its solution
    method: str = "gptq"  # or "rtn", rounded to nearest: it had too few calibration tokens
    is_resumed: bool = False  # done by an earlier run that was stopped


@dataclass(frozen=True)
class FinishedBlock:
    """The tensors of one quantised block, by their names on disk, and the event of each linear."""

    tensors: dict[str, Tensor]
    events: list[QuantizeEvent]


class Fingerprint:
    """A running hash of all that the next block depends on."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())

    def add(self, checkpoint: Checkpoint, names: Iterable[str]) -> None:
        """Includes tensors of the float checkpoint, bit by bit."""
        for name in sorted(names):
            tensor = checkpoint.read(name)
            self._digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            self._digest.update(tensor.contiguous().view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _difference(name: str, theirs: Any, ours: Any) -> str:
    """The old and the new value of a setting where they are short."""
    is_word = isinstance(ours, int | float | str) and name != "calibration"
    return f"{name} {theirs!r:.40}, not {ours!r:.40}" if is_word else f"another {name}"


class FinishedBlocks:
    """One file for each block in `directory`; a file appears complete or not at all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def file(self, index: int) -> Path:
        return self.directory / f"block-{index:05}.safetensors"

    def claim(self, settings: dict[str, Any]) -> None:
        """Records the settings of this run; SettingError where the directory holds blocks of other settings."""
        note, ours = self.directory / "settings.json", json.dumps(settings, sort_keys=True)
        try:
            theirs = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            theirs = None
        if isinstance(theirs, dict) and any(self.directory.glob("block-*.safetensors")):
            known = json.loads(ours)
            differing = [name for name in known if theirs.get(name) != known[name]]
            if differing:
                words = ", ".join(_difference(name, theirs.get(name), known[name]) for name in differing)
                raise SettingError(
                    f"{self.directory} holds finished blocks of a run with other settings ({words}); use those to "
                    "resume, remove the directory to start over, or choose another target"
                )
        with atomic_write(note) as unfinished:
            unfinished.write_text(ours, encoding="utf-8")

    def load(self, index: int, fingerprint: str) -> FinishedBlock | None:
        """The block of an earlier run; None when there is none with this fingerprint."""
        try:
            with safe_open(self.file(index), "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError):
            return None
        return FinishedBlock(tensors, [QuantizeEvent(**event) for event in json.loads(metadata["events"])])

    def save(self, index: int, fingerprint: str, block: FinishedBlock) -> None:
        """Writes a block; CheckpointError when the disk refuses."""
        events = json.dumps([asdict(event) for event in block.events])
        with atomic_write(self.file(index)) as unfinished:
            save_tensors(unfinished, block.tensors, {"fingerprint": fingerprint, "events": events}, hint=HINT)
