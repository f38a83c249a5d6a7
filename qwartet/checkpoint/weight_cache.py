"""The weight cache: weights repacked at the first start and memory-mapped at every later one.

A cache file holds tensors that the checkpoint does not hold in the form that the network needs: one file for the layers
(weights in the kernels' layout, floats of another dtype), one for the 8-bit output head. Its name is a hash of its
inputs (cache_key.py), so a changed checkpoint, or a newer layout, gets files of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from qwartet.checkpoint.cache_directory import check_is_ours, packed_directory, remove_leftovers
from qwartet.checkpoint.cache_key import cache_key
from qwartet.checkpoint.held_tensors import HeldTensor, LoadSettings, head_specs, quantized_shape
from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.safetensors_file import DTYPE_NAMES, MappedFile, SafetensorsFile, TensorInfo, read_tensor_infos
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weight_cache_file import OnPacked, cache_header, write_cache
from qwartet.checkpoint.weights import Weights
from qwartet.errors import CacheWarning, CheckpointError, SettingError
from qwartet.files import check_free_space
from qwartet.kernels.backend import PreparedHead, PreparedWeight, TensorSpec

LEAST_BYTES = 64 * 2**20  # smaller models are repacked faster than they are looked up


def weights_of(
    checkpoint: Checkpoint,
    layout: Layout,
    settings: LoadSettings,
    held: list[HeldTensor],
    *,
    use_cache: bool = True,
    on_packed: OnPacked | None = None,
) -> Weights:
    """A network's weights, from cache files where these help; missing ones are written first.

    If that fails for any reason, the weights come from the checkpoint, with a CacheWarning.
    """
    made = [tensor for tensor in held if tensor.is_cacheable and not tensor.is_in_file]
    if not use_cache or settings.backend.layout is None or sum(tensor.nbytes for tensor in made) < LEAST_BYTES:
        return Weights(checkpoint, settings)
    weights = CachedWeights(checkpoint, settings)
    is_head = [tensor.is_prepared_head for tensor in made]
    for wanted in (False, True):
        part = [tensor for tensor, is_of_head in zip(made, is_head, strict=True) if is_of_head == wanted]
        try:
            if part:
                weights.add(_cache_file(checkpoint, layout, settings, part, on_packed), part)
        except (OSError, SettingError) as error:
            reason = (error.strerror or error) if isinstance(error, OSError) else error
            message = f"weight cache not used, every start repacks the weights: {packed_directory()}: {reason}"
            warnings.warn(message, CacheWarning, stacklevel=3)
    return weights


class CachedWeights(Weights):
    """Weights from cache files, and the rest from the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, settings: LoadSettings) -> None:
        super().__init__(checkpoint, settings)
        self._tensors: dict[str, tuple[MappedFile | SafetensorsFile, TensorInfo]] = {}

    def add(self, path: Path, part: list[HeldTensor]) -> None:
        """Takes the tensors `part` from a file; SettingError if it holds others."""
        try:
            infos = read_tensor_infos(path)
            mapped = self.checkpoint.load_mode == "mmap"
            file = MappedFile(path) if mapped else SafetensorsFile(path, self.checkpoint.load_mode)
        except CheckpointError as error:
            raise _damaged(path, error.reason) from None
        wanted = {tensor.name: (DTYPE_NAMES[tensor.dtype], tensor.shape) for tensor in part}
        if {name: (info.dtype, info.shape) for name, info in infos.items()} != wanted:
            raise _damaged(path, "does not hold the expected tensors")
        self._tensors |= {name: (file, info) for name, info in infos.items()}

    def is_mapped(self, name: str) -> bool:
        return name in self._tensors

    def _read(self, module: str, leaf: str) -> Tensor | None:
        if (place := self._tensors.get(f"{module}.{leaf}")) is None:
            return None
        file, info = place
        return file.read(info)

    def dense(self, module: ModuleSpec, leaf: str) -> Tensor:
        cached = self._read(module.name, leaf)
        return super().dense(module, leaf) if cached is None else cached

    def quantized(self, module: ModuleSpec) -> PreparedWeight:
        backend, gptq = self.settings.backend, self.settings.gptq
        shape = None if gptq is None else quantized_shape(self.checkpoint, module, gptq)
        tensors = self._read_all(module.name, None if shape is None else backend.weight_specs(shape))
        if shape is None or tensors is None:
            return super().quantized(module)
        try:
            return backend.import_weight(shape, tensors)
        except ValueError as error:
            file, _info = self._tensors[f"{module.name}.{next(iter(tensors))}"]
            raise _damaged(file.path, f"{module.name}: {error}") from None

    def prepared_head(self, weight: Tensor) -> PreparedHead | None:
        rows, columns = weight.shape
        tensors = self._read_all("lm_head", head_specs((rows, columns), self.settings))
        if tensors is None:
            return super().prepared_head(weight)
        return self.settings.backend.import_head(rows, columns, tensors)

    def _read_all(self, module: str, specs: Sequence[TensorSpec] | None) -> dict[str, Tensor] | None:
        """Leaf -> tensor of all specs; None if there are none, or if a cache file lacks one of them."""
        found = {spec.leaf: self._read(module, spec.leaf) for spec in specs or ()}
        tensors = {leaf: tensor for leaf, tensor in found.items() if tensor is not None}
        return tensors if tensors and len(tensors) == len(found) else None


def _damaged(path: Path, reason: str) -> SettingError:
    return SettingError(f"{path}: {reason}; remove it (qwartet cache clear); the next start makes it again")


def _cache_file(
    checkpoint: Checkpoint,
    layout: Layout,
    settings: LoadSettings,
    part: list[HeldTensor],
    on_packed: OnPacked | None,
) -> Path:
    """The file with these tensors, written if it does not exist."""
    header, directory = cache_header(part), packed_directory()
    check_is_ours(directory)
    remove_leftovers(directory)
    path = directory / f"{cache_key(directory, checkpoint, settings, header)}.safetensors"
    if path.is_file():
        check_is_ours(path)
        return path
    check_free_space(path, len(header) + sum(tensor.nbytes for tensor in part))
    # Read, not mapped: weights take no memory once they are repacked.
    weights = Weights(Checkpoint(checkpoint.directory, "pread"), settings)
    write_cache(path, header, part, weights, layout, on_packed)
    return path
