"""A model for a verb: the options of loading it, what loads it, and what requests may call it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet.cli.options import Activations, Dtype, Head, KvCacheDtype, Revision, Threads, count_option
from qwartet.cli.progress import byte_progress
from qwartet.engine.engine_config import EngineConfig

if TYPE_CHECKING:
    from qwartet.llm import LLM

BUNDLED_NAME = "qwartet-demo"
_ENGINE: Any = EngineConfig


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; a test holds the defaults to LLM's, which --help has no time to load."""

    dtype: Dtype = "auto"
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    revision: Revision = None
    load_mode: Annotated[
        Literal["mmap", "pread"], typer.Option(help="pread: slower, for files that may change while in use.")
    ] = "mmap"
    max_model_len: Annotated[
        int | None, count_option("Longest prompt and answer together; 32k is 32,000, 32K is 32,768.")
    ] = EngineConfig.max_model_len
    activations: Activations = None
    head: Head = "auto"
    kv_cache_dtype: KvCacheDtype = _ENGINE.kv_cache_dtype
    draft_model: Annotated[
        str | None,
        typer.Option(help="A smaller checkpoint of the same vocabulary: it drafts tokens, the model verifies them."),
    ] = None
    speculation: Annotated[
        Literal["prompt-lookup", "off"],
        typer.Option(help="Guess tokens from what stood before; the text is the same, copies come sooner."),
    ] = _ENGINE.speculation
    chat_format: Annotated[
        Literal["chatml", "raw"] | None,
        typer.Option(help="How the model chats, where its generation_config.json does not say; raw: it does not."),
    ] = None
    checkpoint_format: Annotated[
        Literal["gptq", "gptq_v2"] | None,
        typer.Option(help="How zeros of an asymmetric GPTQ checkpoint are stored, where its configs do not say."),
    ] = None
    threads: Threads = None
    weight_cache: Annotated[
        bool, typer.Option(help="Keep packed weights on disk, so that the next start is sooner (qwartet cache).")
    ] = True
    force: Annotated[bool, typer.Option("--force", help="Load even if the memory seems too small.")] = False

    def load(self, model: str | os.PathLike[str] | None, **engine: Any) -> LLM:
        """The model; shows how its weights are packed where they have to be. `engine`, and errors: see LLM.

        The threads are the process's, not the model's: see set_threads.
        """
        from qwartet.llm import LLM

        settings = {name: value for name, value in vars(self).items() if name != "threads"}
        with byte_progress("packing the weights, once", "packed (kept for the next start)") as on_packed:
            return LLM(model, on_packed=on_packed, **settings, **engine)


def own_names(model: str | None) -> list[str]:
    """What requests may call a model: a hub id or its last part; of a directory the name alone, for paths are nobody's
    business."""
    if model is None:
        return [BUNDLED_NAME]
    path = Path(model).expanduser()
    return [path.resolve().name] if path.is_dir() else list(dict.fromkeys([model, Path(model).name]))
