"""Models through transformers, for the tests of this folder; without transformers their modules are skipped."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", minversion="5.3", reason="transformers is not installed (the extra 'hf')"
)

from qwartet import LLM  # noqa: E402
from qwartet.hf import QWenConfig as QWenConfig  # noqa: E402  the import registers the classes
from qwartet.hf import QWenLMHeadModel as QWenLMHeadModel  # noqa: E402
from qwartet.hf import QWenTokenizer as QWenTokenizer  # noqa: E402
from qwartet.hf import requirement as requirement  # noqa: E402
from qwartet.hf.gptq_linear import GptqLinear as GptqLinear  # noqa: E402
from qwartet.hf.paged_cache import PagedCache as PagedCache  # noqa: E402
from tests.golden_data import golden_path  # noqa: E402

transformers.utils.logging.disable_progress_bar()
FLOAT_SETS = ["tiny-72b", "tiny-72b-base-sharded"]
QUANTISED_SETS = ["gptq-int4", "gptq-int8-allbias", "gptq-int4-descact", "gptq-int4-v2zeros"]


def load(name: Any, **arguments: Any) -> Any:
    """The model of a golden set, or of a directory."""
    place = golden_path(name) if isinstance(name, str) else name
    return transformers.AutoModelForCausalLM.from_pretrained(place, **arguments)


@cache
def loaded(name: str, dtype: str = "float32") -> Any:
    """The same, shared between tests: it must not be changed."""
    return load(name, dtype=dtype)


@cache
def llm_logits(name: str, ids: tuple[int, ...], dtype: str = "fp32") -> torch.Tensor:
    """LLM.logits of a golden set, [T, V]."""
    with LLM(golden_path(name), dtype=dtype, device="cpu") as llm:
        return llm.logits(list(ids))


def dynamic_cache(model: Any) -> Any:
    """A cache of transformers' own."""
    return transformers.DynamicCache(config=model.config)


def cache_of(result: Any) -> Any:
    """The cache in a result, whatever this version of transformers calls it."""
    return result["cache"] if "cache" in result else result["past_key_values"]
