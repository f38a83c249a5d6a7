"""PEFT adapters on a model: read by Qwartet, so that no version of transformers leaves their weights random.

transformers 5.3 recognises an adapter's tensors only for models whose network is called `model`; ours is `transformer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from qwartet.checkpoint.adapter import ADAPTER_WEIGHTS
from qwartet.errors import CheckpointError

_PREFIX = "base_model.model."
_OF_THE_PLACE = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision", "subfolder")


class QwenAdapters:
    """load_adapter, which is an error where weights are missing or left over."""

    def load_adapter(
        self,
        peft_model_id: Any = None,
        adapter_name: str | None = None,
        peft_config: Any = None,
        adapter_state_dict: dict[str, Tensor] | None = None,
        **arguments: Any,
    ) -> Any:
        """As in transformers. CheckpointError unless the adapter's tensors are those that its configuration makes."""
        place = "adapter_state_dict" if peft_model_id is None else str(peft_model_id)
        if adapter_state_dict is None and peft_model_id is not None:
            adapter_state_dict = _tensors(place, arguments)
        if adapter_state_dict is not None:
            adapter_state_dict = {name.removeprefix(_PREFIX): value for name, value in adapter_state_dict.items()}
        identifier = None if peft_model_id is None else place
        loaded = super().load_adapter(identifier, adapter_name, peft_config, adapter_state_dict, **arguments)  # type: ignore[misc]
        if adapter_state_dict is not None:
            _check_names(self, adapter_name or "default", set(adapter_state_dict), place)
        return loaded


def _tensors(place: str, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of an adapter by their names; pickles are not read."""
    given = {**arguments, **(arguments.get("adapter_kwargs") or {})}
    found = cached_file(
        place,
        ADAPTER_WEIGHTS,
        _raise_exceptions_for_missing_entries=False,
        **{k: given[k] for k in _OF_THE_PLACE if k in given},
    )
    if found is None:
        raise CheckpointError(place, f"{ADAPTER_WEIGHTS} is missing; save the adapter as safetensors")
    try:
        return load_file(Path(found))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(found, f"cannot be read ({error})") from error


def _check_names(model: Any, adapter: str, given: set[str], place: str) -> None:
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False))
    for names, text in ((expected - given, "is missing"), (given - expected, "is not of the adapter's configuration")):
        if names:
            raise CheckpointError(place, f"tensor {min(names)} {text}")
