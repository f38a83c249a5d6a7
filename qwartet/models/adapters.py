"""LoRA adapters resident beside a network: every linear holds all of them, and each token of a batch names its own.

ForwardBatch.adapter_index [T]    number of a token's adapter, in the order in which they were given; -1: none
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwartet.checkpoint.adapter import Adapter, read_adapter
from qwartet.errors import CheckpointError, SettingError
from qwartet.kernels.low_rank import LowRank
from qwartet.layers.linear import Linear, LinearAdapters, QuantizedLinear
from qwartet.models.families import layout_of
from qwartet.models.qwen import QwenModel

MAX_ADAPTERS = 256
_MAX_NAME = 200  # characters


@dataclass(frozen=True)
class ResidentAdapters:
    """The adapters beside a network."""

    numbers: Mapping[str, int] = field(default_factory=dict)  # by name
    rank: int = 0  # the largest
    num_bytes: int = 0

    def number(self, name: str | None) -> int:
        """The number of an adapter, -1 for None; SettingError for one that is not loaded."""
        if name is None:
            return -1
        if name not in self.numbers:
            loaded = f"use one of {', '.join(self.numbers)}" if self.numbers else "none is loaded"
            raise SettingError(f"no adapter is called {name!r:.80}; {loaded}", param="adapter")
        return self.numbers[name]


def attach_adapters(network: QwenModel, directories: Mapping[str, Path]) -> ResidentAdapters:
    """Reads adapters and puts them beside the linears of a network, replacing any that were there.

    CheckpointError for an adapter that is broken, of another base, or changes more than the linears of blocks;
    SettingError for a name that requests could not use.
    """
    check_names(directories)
    layout = layout_of(network.config)
    adapters = {name: _servable(read_adapter(place, layout)).linears for name, place in directories.items()}
    return attach(network, adapters)


def attach(network: QwenModel, adapters: Mapping[str, Mapping[str, LowRank]]) -> ResidentAdapters:
    """The same for matrices in memory, by the names of adapters and of linears ("layers.0.mlp.up")."""
    num_bytes = 0
    for name, linear in network_linears(network):
        own = [linears.get(name) for linears in adapters.values()]
        linear.adapters = None
        if any(one is not None for one in own):
            prepared = linear.backend.prepare_adapters(own, network.dtype, network.device)
            linear.adapters = LinearAdapters(prepared)
            num_bytes += sum(tensor.nbytes for tensor in prepared.tensors)
    rank = max((one.rank for linears in adapters.values() for one in linears.values()), default=0)
    return ResidentAdapters({name: number for number, name in enumerate(adapters)}, rank, num_bytes)


def check_names(names: Mapping[str, object]) -> None:
    """SettingError for too many adapters, or a name that is empty, long or not printable."""
    if len(names) > MAX_ADAPTERS:
        raise SettingError(f"{len(names)} adapters are given; at most {MAX_ADAPTERS} are supported", param="adapters")
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
            reason = f"it must be 1 to {_MAX_NAME} printable characters"
            raise SettingError(f"the adapter's name is {name!r:.80}; {reason}", param="adapters")


def _servable(adapter: Adapter) -> Adapter:
    """The adapter; CheckpointError if it changes the embedding or the output layer, which all requests share."""
    if changed := sorted(adapter.replaced.keys() | (adapter.linears.keys() & {"lm_head"})):
        reason = f"the adapter changes {' and '.join(changed)}, which requests with other adapters share"
        raise CheckpointError(adapter.directory, reason, hint="merge it into the model with qwartet merge")
    return adapter


def network_linears(network: QwenModel) -> Iterator[tuple[str, Linear | QuantizedLinear]]:
    """The linears of all blocks, with their names in the network."""
    for name, module in network.layers.named_modules(prefix="layers"):
        if isinstance(module, Linear | QuantizedLinear):
            yield name, module
