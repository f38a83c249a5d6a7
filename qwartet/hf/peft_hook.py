"""Makes PEFT accept GPTQ linears, as soon as PEFT is imported: importing qwartet.hf does not import it.

PEFT finds the class for a module by a list of its own, which it extends by what a LoraConfig names. The hook names ours
in every LoraConfig that meets a GPTQ linear, and says what to do where PEFT only refuses to merge.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from qwartet.hf.gptq_linear import GptqLinear

MODULE = "peft.tuners.lora.model"


def register_with_peft() -> None:
    """Extends PEFT now if it is imported, else when it is; a second call changes nothing."""
    if MODULE in sys.modules:
        _extend(sys.modules[MODULE])
    elif not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


class _PeftFinder(MetaPathFinder):
    """Finds one module, once, where it would have been found anyway."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ExtendingLoader(spec.loader)
        return spec


class _ExtendingLoader(Loader):
    def __init__(self, original: Loader) -> None:
        self._original = original

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._original.exec_module(module)
        _extend(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)  # get_source and the like


def _extend(module: ModuleType) -> None:
    model = module.LoraModel
    create, check = model._create_new_module, model._check_merge_allowed
    if hasattr(create, "is_of_qwartet"):
        return

    @functools.wraps(create)
    def _create_new_module(lora_config: Any, adapter_name: str, target: Any, **arguments: Any) -> Any:
        if isinstance(target, GptqLinear):
            from qwartet.hf.lora_linear import GptqLoraLinear

            lora_config._register_custom_module({GptqLinear: GptqLoraLinear})
        return create(lora_config, adapter_name, target, **arguments)

    @functools.wraps(check)
    def _check_merge_allowed(self: Any) -> None:
        if any(isinstance(one, GptqLinear) for one in self.model.modules()):
            from qwartet.hf.lora_linear import merge_error

            raise merge_error()
        check(self)

    _create_new_module.is_of_qwartet = True  # type: ignore[attr-defined]
    model._create_new_module = staticmethod(_create_new_module)
    model._check_merge_allowed = _check_merge_allowed
