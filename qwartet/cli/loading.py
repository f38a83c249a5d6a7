"""Loads a model for a verb: the options for that, and the names that requests may use for the model."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet.cli.options import Activations, Dtype, Head, KvCacheDtype, Revision, Threads, count_option
from qwartet.cli.progress import byte_progress
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import KernelWarning

if TYPE_CHECKING:
    from qwartet.llm import LLM

BUNDLED_NAME = "qwartet-demo"
_ENGINE: Any = EngineConfig


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. A test compares the defaults with those of LLM, which is too slow to import for --help."""

    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    dtype: Dtype = "auto"
    max_model_len: Annotated[
        int | None,
        count_option(
            "Longest prompt plus answer, in tokens; 32k is 32,000, 32K is 32,768.", show_default="the model's"
        ),
    ] = EngineConfig.max_model_len
    threads: Threads = None
    kv_cache_dtype: KvCacheDtype = _ENGINE.kv_cache_dtype
    speculation: Annotated[
        Literal["prompt-lookup", "off"],
        typer.Option(help="Speculative decoding by prompt lookup; same output, faster on repeated text."),
    ] = _ENGINE.speculation
    draft_model: Annotated[
        str | None,
        typer.Option(help="Smaller checkpoint with the same vocabulary; it drafts tokens that the model verifies."),
    ] = None
    revision: Revision = None
    activations: Activations = None
    head: Head = "auto"
    chat_format: Annotated[
        Literal["chatml", "raw"] | None,
        typer.Option(help="Chat format, if generation_config.json does not state it; raw: a base model, no chat."),
    ] = None
    checkpoint_format: Annotated[
        Literal["gptq", "gptq_v2"] | None,
        typer.Option(help="How an asymmetric GPTQ checkpoint stores its zeros, if its configs do not state it."),
    ] = None
    load_mode: Annotated[
        Literal["mmap", "pread"],
        typer.Option(help="mmap: memory-mapped; pread: slower, for files that may change while in use."),
    ] = "mmap"
    weight_cache: Annotated[
        bool, typer.Option(help="Keep repacked weights on disk for a faster next start (see qwartet cache).")
    ] = True
    force: Annotated[bool, typer.Option("--force", help="Load even if memory seems too small.")] = False

    def load(self, model: str | os.PathLike[str] | None, **engine: Any) -> LLM:
        """Loads the model, showing progress if its weights must be repacked. For `engine` and errors see LLM.

        Threads belong to the process, not to the model: see set_threads.
        """
        from qwartet.llm import LLM

        settings = {name: value for name, value in vars(self).items() if name != "threads"}
        with byte_progress("repacking weights (once)", "repacked (kept for the next start)") as on_packed:
            llm = LLM(model, on_packed=on_packed, **settings, **engine)
        _warn_of_missing_kernels(llm)
        return llm


def _warn_of_missing_kernels(llm: LLM) -> None:
    """One line if a model runs on torch's kernels for lack of native ones."""
    from qwartet.bench.machine import missing_kernels
    from qwartet.kernels.torch_int4 import TorchInt4Backend

    if isinstance(llm.model.backend, TorchInt4Backend):
        for text in missing_kernels():
            warnings.warn(KernelWarning(text), stacklevel=2)


def own_names(model: str | None) -> list[str]:
    """Names that requests may use for a model: a hub id or its last part; for a directory only its name, since clients
    need not know its path."""
    if model is None:
        return [BUNDLED_NAME]
    path = Path(model).expanduser()
    return [path.resolve().name] if path.is_dir() else list(dict.fromkeys([model, Path(model).name]))
