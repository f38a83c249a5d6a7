"""PagedCache: the paged KV cache of the kernels behind transformers' Cache interface.

Each row of a batch owns a run of blocks and holds its tokens there without padding. Reordering for beam search moves
ownership: only a row that continues twice is copied.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from qwartet.engine.executors import FusedExecutor
from qwartet.errors import SettingError
from qwartet.hf.backend import NATIVE_DTYPE
from qwartet.hf.batches import NTK_SLOTS, Rows, packed_batch
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import BLOCK_SIZE, KVCache
from qwartet.models.config import ModelConfig

LEAST_BLOCKS = 16  # of a row


class _PagedLayer(CacheLayerMixin):
    """What transformers asks of single layers; the keys and values are in the PagedCache."""

    is_compileable = False
    is_croppable = True
    is_sliding = False

    def __init__(self, cache: PagedCache) -> None:
        super().__init__()
        self._cache = cache
        self.is_initialized = True

    def lazy_initialization(self, *args: Any) -> None:
        """Nothing is left to do."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """SettingError: only the model that made the cache writes to it."""
        raise SettingError("this cache belongs to Qwartet's kernels; pass a DynamicCache to another model")

    def get_seq_length(self, *args: Any) -> int:
        """Columns so far, padding included."""
        return self._cache.num_columns

    def get_mask_sizes(self, query: Any) -> tuple[int, int]:
        """Keys that new columns attend to, and the first of them."""
        num_new = query if isinstance(query, int) else query.shape[0]
        return self._cache.num_columns + num_new, 0

    def get_max_length(self) -> int:
        """-1: it grows."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.20 or so


class PagedCache(Cache):
    """Keys and values of a batch; grows as needed."""

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, max_length: int = 0) -> None:
        """`max_length` tokens of a row have room without growing."""
        super().__init__(layers=[_PagedLayer(self) for _ in range(config.num_layers)])
        self.config, self.dtype, self.device = config, dtype, device
        self._blocks_per_row = max(-(-max_length // BLOCK_SIZE), LEAST_BLOCKS)
        self._clear()

    def _clear(self) -> None:
        self._store: KVCache | None = None
        self._executor: tuple[Any, FusedExecutor] | None = None
        self._owners: list[int] = []  # run of blocks of each row
        self._is_token = torch.zeros(0, 0, dtype=torch.bool)  # [B, columns]
        setattr(self, NTK_SLOTS, None)

    @property
    def num_columns(self) -> int:
        """Columns so far, padding included."""
        return self._is_token.shape[1]

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first tokens."""
        return len(self._owners) or -1

    # What a step needs

    def batch(self, input_ids: Tensor, rows: Rows, kept: Tensor) -> ForwardBatch:
        """The batch of new tokens input_ids [B, L]; makes room for them and takes note of them."""
        batch_size, position = len(input_ids), self.config.position
        if self._store is None:
            self._owners = list(range(batch_size))
            self._is_token = torch.zeros(batch_size, 0, dtype=torch.bool)
            setattr(self, NTK_SLOTS, rows.ntk_slots(position, is_training=False))
        if len(self._owners) != batch_size:
            raise SettingError(f"the cache holds {len(self._owners)} rows, and input_ids has {batch_size}")
        if not torch.equal(rows.is_token[:, : rows.past], self._is_token):
            raise SettingError("attention_mask differs from that of the cached tokens; pass the same columns again")
        before = self._is_token.sum(1)
        counts = rows.new.sum(1)
        self._reserve(int((before + counts).max()))
        self._is_token = rows.is_token
        table = torch.tensor(self._owners)[:, None] * self._blocks_per_row + torch.arange(self._blocks_per_row)
        places = (before[:, None] + rows.new.cumsum(1) - 1)[rows.new]
        row_of_token = torch.arange(batch_size)[:, None].expand_as(rows.new)[rows.new]
        slots = table[row_of_token, places // BLOCK_SIZE] * BLOCK_SIZE + places % BLOCK_SIZE
        packed = packed_batch(input_ids, rows, getattr(self, NTK_SLOTS), position, kept, uses_logn=True)
        has_new = counts > 0
        device = input_ids.device
        return ForwardBatch(
            input_ids=packed.input_ids,
            rope_index=packed.rope_index,
            query_scale=packed.query_scale,
            cu_seqlens=packed.cu_seqlens,
            seq_lens=(before + counts)[has_new].int().to(device),
            block_table=table[has_new].int().contiguous().to(device),
            slot_mapping=slots.int().to(device),
            logits_index=packed.logits_index,
        )

    @property
    def store(self) -> KVCache:
        """Keys and values, after `batch`."""
        assert self._store is not None
        return self._store

    def executor(self, network: Any) -> FusedExecutor | None:
        """What runs all blocks of a network over this cache in one call; None if that is not possible."""
        if self.dtype != NATIVE_DTYPE or self.device.type != "cpu" or not network.backend.can_fuse:
            return None
        if self._executor is None or self._executor[0] is not network:
            self._executor = network, FusedExecutor(network, self.store)
        return self._executor[1]

    def _reserve(self, length: int) -> None:
        """Makes room for `length` tokens in each row: twice the blocks, until they suffice."""
        if self._store is not None and length <= self._blocks_per_row * BLOCK_SIZE:
            return
        old, old_blocks = self._store, self._blocks_per_row
        while length > self._blocks_per_row * BLOCK_SIZE:
            self._blocks_per_row *= 2
        num_rows = len(self._owners)
        self._store = KVCache(
            num_layers=self.config.num_layers, num_blocks=num_rows * self._blocks_per_row,
            num_kv_heads=self.config.num_kv_heads, block_size=BLOCK_SIZE, head_dim=self.config.head_dim,
            dtype=self.dtype, device=self.device,
        )  # fmt: skip
        self._executor = None
        if old is None:
            return
        for source, target in zip(old.layers, self._store.layers, strict=True):
            for name in ("keys", "values"):
                runs = getattr(source, name).unflatten(0, (-1, old_blocks))
                getattr(target, name).unflatten(0, (num_rows, -1))[:, :old_blocks] = runs

    # What generation does to a cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns so far, padding included."""
        return self.num_columns

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i continues what row beam_idx[i] was."""
        parents = beam_idx.tolist()
        free = [owner for row, owner in enumerate(self._owners) if row not in parents]
        owners: list[int] = []
        for parent in parents:
            owner = self._owners[parent]
            if owner in owners:
                self._copy_run(owner, copied := free.pop())
                owner = copied
            owners.append(owner)
        self._take(owners, beam_idx.cpu())

    def _copy_run(self, source: int, target: int) -> None:
        num_used = -(-int(self._is_token.sum(1).max()) // BLOCK_SIZE)
        for layer in self.store.layers:
            for tensor in (layer.keys, layer.values):
                runs = tensor.unflatten(0, (-1, self._blocks_per_row))
                runs[target, :num_used] = runs[source, :num_used]

    def _take(self, owners: list[int], rows: Tensor) -> None:
        self._owners = owners
        self._is_token = self._is_token[rows]
        setattr(self, NTK_SLOTS, getattr(self, NTK_SLOTS)[rows])

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last -n columns for n < 0; keeps the first n for n > 0, as before transformers 5.20 or so."""
        kept = self.num_columns + tokens_to_remove if tokens_to_remove <= 0 else tokens_to_remove
        self._is_token = self._is_token[:, : max(kept, 0)]

    def reset(self) -> None:
        """Forgets everything."""
        self._clear()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows."""
        rows = torch.arange(len(self._owners))[indices.cpu()]
        self._rebuild(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row, `repeats` times."""
        self._rebuild(torch.arange(len(self._owners)).repeat_interleave(repeats))

    def _rebuild(self, rows: Tensor) -> None:
        """A store with copies of these rows, in their order."""
        if self._store is None:
            return
        old = torch.tensor(self._owners)[rows]
        layers = self._store.layers
        self._take(list(range(len(rows))), rows)
        self._store, before = None, self._blocks_per_row
        self._reserve(int(self._is_token.sum(1).max()) if self._is_token.numel() else 1)
        for source, target in zip(layers, self.store.layers, strict=True):
            for name in ("keys", "values"):
                runs = getattr(source, name).unflatten(0, (-1, before))[old.to(self.device)]
                getattr(target, name).unflatten(0, (len(rows), -1))[:, :before] = runs

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedCache:
        """A cache of its own with the same content, for prompts that continue in several ways."""
        copied = PagedCache(self.config, dtype=self.dtype, device=self.device)
        copied._blocks_per_row, copied._owners = self._blocks_per_row, list(self._owners)
        copied._is_token = self._is_token.clone()
        setattr(copied, NTK_SLOTS, copy.copy(getattr(self, NTK_SLOTS)))
        if self._store is not None:
            copied._reserve(1)
            for source, target in zip(self._store.layers, copied.store.layers, strict=True):
                target.keys.copy_(source.keys)
                target.values.copy_(source.values)
        return copied
