"""Qwartet runs first-generation Qwen checkpoints as published: no remote code, token-exact, one package.

    from qwartet import LLM
    response, history = LLM().chat("你好")

Names are loaded on first use, so that `import qwartet` stays fast and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwartet.compat.generation_config import GenerationConfig
    from qwartet.compat.modeling import AutoModelForCausalLM
    from qwartet.compat.tokenization import AutoTokenizer
    from qwartet.engine.sampling_params import SamplingParams
    from qwartet.engine.structure import Structure
    from qwartet.llm import LLM

__version__ = "0.1.0"

DEMO = Path(__file__).parent / "demo"
"""Directory of the bundled model: a small Int4 chat model in the published checkpoint layout."""

_LAZY = {
    "LLM": "qwartet.llm",
    "SamplingParams": "qwartet.engine.sampling_params",
    "Structure": "qwartet.engine.structure",
    "AutoTokenizer": "qwartet.compat.tokenization",
    "AutoModelForCausalLM": "qwartet.compat.modeling",
    "GenerationConfig": "qwartet.compat.generation_config",
}

__all__ = [
    "DEMO", "LLM", "AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig", "SamplingParams", "Structure",
    "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'qwartet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
