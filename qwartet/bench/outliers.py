"""A copy of a quantised checkpoint with outliers like those of large models, which toy models lack: two kinds.

In the activations:

    norm.weight[c] * 100        for 1 % of the channels c of every norm
    weight[:, c] / 100          for every linear that reads this norm, then quantised again

In exact arithmetic the network computes the same as before. Divided weights are rounded to nearest with the groups'
existing scales, so all other codes stay the same; 8 / 100 of a step rounds to 0, so at 4 bits these inputs vanish.

In the keys:

    k[j], k[j + rotary_dim / 2] * 32      for one pair of channels j that RoPE rotates, in every kv head
    q[j], q[j + rotary_dim / 2] / 32      in the heads that attend to it

Both channels of the pair have one factor, so the rotation is unaffected and every q . k stays the same. The factor goes
into the scales and biases of qkv; it is a power of two, so only values below the range of fp16 are rounded.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weight_files import INDEX_NAME
from qwartet.errors import SettingError
from qwartet.models.families import check_first_generation, layout_of, load_config
from qwartet.models.load import load_gptq_config
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import pack_qweight
from qwartet.quant_format.weight import QuantizedWeight

SHARE = 0.01  # of the channels of a norm; one at least
FACTOR = 100.0
KEY_FACTOR = 32.0
_QUANTIZED_READERS = {"attention_norm": ("attention.qkv",), "mlp_norm": ("mlp.up", "mlp.gate")}
_LEAVES = ("qweight", "qzeros", "scales", "g_idx", "bias")


def with_weaker_inputs(weight: QuantizedWeight, channels: Tensor, factor: float) -> QuantizedWeight:
    """The weight with these inputs divided by `factor` and rounded to nearest with the existing scales."""
    zeros = weight.zeros().float()[weight.group_of_input()[channels].long()]  # [C, N]
    codes = weight.codes()
    # The scale cancels: (scale * (q - zero) / factor) / scale.
    weaker = torch.round((codes[channels].float() - zeros) / factor) + zeros
    codes[channels] = weaker.to(torch.uint8)
    return replace(weight, qweight=pack_qweight(codes, weight.bits))


class _OutlierTensors:
    """The tensors of a checkpoint by their names on disk, changed norm by norm."""

    def __init__(
        self, source: Checkpoint, layout: Layout, gptq: GptqConfig, share: float, factor: float, seed: int
    ) -> None:
        self.tensors = {name: source.read(name) for name in source}
        self._source, self._layout, self._gptq = source, layout, gptq
        self._share, self._factor = share, factor
        self._generator = torch.Generator().manual_seed(seed)

    def strengthen(self, norm: str) -> Tensor:
        """Multiplies a share of a norm's channels, drawn at random; returns which, sorted."""
        name = self._layout.parameter_name(f"{norm}.weight")
        weight = self.tensors[name].clone()
        count = max(round(self._share * len(weight)), 1)
        channels = torch.randperm(len(weight), generator=self._generator)[:count].sort().values
        weight[channels] *= self._factor
        if not weight.isfinite().all():
            raise SettingError(f"{name} times {self._factor:g} does not fit {weight.dtype}; use a smaller factor")
        self.tensors[name] = weight
        return channels

    def weaken(self, linear: str, channels: Tensor) -> None:
        """Divides these inputs of a quantised linear."""
        name = self._layout[linear].disk_name
        stored = {leaf: self.tensors[f"{name}.{leaf}"] for leaf in _LEAVES if f"{name}.{leaf}" in self.tensors}
        weight = QuantizedWeight.from_tensors(stored, self._gptq, name=name, path=self._source.directory)
        self.tensors[f"{name}.qweight"] = with_weaker_inputs(weight, channels, self._factor).qweight

    def weaken_head(self, channels: Tensor) -> None:
        """The same for lm_head, which is not quantised."""
        name = self._layout.parameter_name("lm_head.weight")
        weight = self.tensors[name].float()
        weight[:, channels] /= self._factor
        self.tensors[name] = weight.to(self.tensors[name].dtype)


def write_outliers(
    source: Path, target: Path, *, share: float = SHARE, factor: float = FACTOR, seed: int = 0
) -> dict[str, list[int]]:
    """Writes the copy into the directory `target` and returns the channels of each norm. Everything is in memory once.

    SettingError for a checkpoint that is not quantised; CheckpointError for one that is broken.
    """
    gptq = load_gptq_config(source)
    if gptq is None:
        raise SettingError(f"{source} is not quantised; use a GPTQ checkpoint")
    config = load_config(source)
    check_first_generation(config, source, "this experiment")
    changed = _OutlierTensors(Checkpoint(source), layout_of(config), gptq, share, factor, seed)
    channels = {}
    for layer in range(config.num_layers):
        for norm, linears in _QUANTIZED_READERS.items():
            channels[f"layers.{layer}.{norm}"] = chosen = changed.strengthen(f"layers.{layer}.{norm}")
            for linear in linears:
                changed.weaken(f"layers.{layer}.{linear}", chosen)
    channels["norm"] = changed.strengthen("norm")
    changed.weaken_head(channels["norm"])
    _write_copy(source, target, changed.tensors)
    return {norm: chosen.tolist() for norm, chosen in channels.items()}


def write_key_outliers(source: Path, target: Path, *, factor: float = KEY_FACTOR, seed: int = 0) -> list[list[int]]:
    """Writes the copy with outliers in the keys; returns the channel j of every kv head, layer by layer.

    Errors as in `write_outliers`.
    """
    if load_gptq_config(source) is None:
        raise SettingError(f"{source} is not quantised; use a GPTQ checkpoint")
    checkpoint, config = Checkpoint(source), load_config(source)
    check_first_generation(config, source, "this experiment")
    tensors = {name: checkpoint.read(name) for name in checkpoint}
    half, generator = config.position.rotary_dim // 2, torch.Generator().manual_seed(seed)
    chosen = []
    for layer in range(config.num_layers):
        pairs = torch.randint(half, (config.num_kv_heads,), generator=generator)
        factors = torch.ones(config.num_heads + 2 * config.num_kv_heads, config.head_dim)
        keys = torch.arange(config.num_kv_heads)
        queries = torch.arange(config.num_heads)
        for channel in (pairs, pairs + half):
            factors[config.num_heads + keys, channel] = factor
            factors[queries, channel.repeat_interleave(config.num_heads // config.num_kv_heads)] = 1 / factor
        for leaf in ("scales", "bias"):
            name = layout_of(config).parameter_name(f"layers.{layer}.attention.qkv.{leaf}")
            tensors[name] = (tensors[name].float() * factors.flatten()).to(tensors[name].dtype)
        chosen.append(pairs.tolist())
    _write_copy(source, target, tensors)
    return chosen


def _write_copy(source: Path, target: Path, tensors: dict[str, Tensor]) -> None:
    """A checkpoint of these tensors, with the vocabulary and the settings of another."""
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    for file in (*source.glob("*.json"), *source.glob("*.tiktoken")):
        if file.name != INDEX_NAME:
            shutil.copyfile(file, target / file.name)
