"""`qwartet convert`: pickled weights (*.bin) to safetensors, and first-generation Qwen to the Qwen2 layout or back."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet.cli.options import AsJson, count_option
from qwartet.cli.progress import byte_progress
from qwartet.cli.signals import ends_cleanly
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve

if TYPE_CHECKING:
    from qwartet.checkpoint.stream_writer import OnBytes
    from qwartet.convert.to_qwen2 import Converted

Form = Literal["safetensors", "qwen2", "qwen1"]
_LAYOUTS = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "qwen1": "QWenLMHeadModel"}


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Checkpoint directory; with --to, also a hub id.")],
    target: Annotated[Path, typer.Argument(help="New directory for the converted checkpoint.")],
    to: Annotated[
        Form,
        typer.Option(
            help="safetensors: replace pickled weights; qwen2: for vLLM, transformers and other engines; qwen1: from "
            "qwen2 back."
        ),
    ] = "safetensors",
    context: Annotated[
        int | None,
        count_option(
            "Context length for qwen2, in tokens; approximate beyond the trained length.",
            show_default="the longest exact one",
        ),
    ] = None,
    pad_for_tensor_parallel: Annotated[
        int,
        typer.Option(help="For qwen2: pad the MLP with zeros to whole GPTQ groups on this many devices."),
    ] = 1,
    chat_format: Annotated[
        Literal["chatml", "raw"] | None,
        typer.Option(help="Chat format, if generation_config.json does not state it; raw: a base model, no chat."),
    ] = None,
    checkpoint_format: Annotated[
        Literal["gptq", "gptq_v2"] | None,
        typer.Option(help="How an asymmetric GPTQ checkpoint stores its zeros, if its configs do not state it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert weights to safetensors, or between layouts.

    --to safetensors accepts pytorch_model*.bin and the *.bin files of quantisers. A separate process without network
    access, with limited memory and time, reads each file with torch's weights-only unpickler, which runs no code.

    --to qwen2 writes first-generation Qwen (BF16, FP16, Int4 or Int8) in the layout of Qwen2ForCausalLM, with
    tokenizer.json and chat template; logits are the same. --to qwen1 restores the original bit for bit.

    An interrupted run leaves nothing behind.
    """
    given = {
        "--context": context is not None,
        "--pad-for-tensor-parallel": pad_for_tensor_parallel != 1,
        "--chat-format": chat_format is not None,
        "--checkpoint-format": checkpoint_format is not None and to == "safetensors",
    }
    if to != "qwen2" and (unused := [name for name, is_given in given.items() if is_given]):
        raise SettingError(f"{unused[0]} has no effect with --to {to}; leave it out, or use --to qwen2")
    started = time.perf_counter()
    if to == "safetensors":
        _convert_pickled(source, target, as_json, started)
        return
    from qwartet.quantize.requirements import check_target

    check_target(target)
    directory = resolve(source)  # may download it, so everything that does not need it has been checked

    def run(on_bytes: OnBytes) -> Converted:
        from qwartet.convert.to_qwen1 import convert_to_qwen1
        from qwartet.convert.to_qwen2 import convert_to_qwen2

        shared: dict[str, Any] = {"checkpoint_format": checkpoint_format, "on_bytes": on_bytes}
        if to == "qwen1":
            return convert_to_qwen1(directory, target, **shared)
        ranks = pad_for_tensor_parallel
        return convert_to_qwen2(directory, target, context=context, ranks=ranks, chat_format=chat_format, **shared)

    with ends_cleanly(), byte_progress("converting", "converted") as on_bytes:
        converted = run(on_bytes)
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        print(json_line(asdict(converted) | {"seconds": seconds, "peak_rss_bytes": _peak_bytes()}))
    else:
        _print_converted(converted, seconds)


def _convert_pickled(source: str, target: Path, as_json: bool, started: float) -> None:
    from qwartet.convert.pickled import convert_pickled

    directory = resolve(source, download=False)
    with ends_cleanly(), byte_progress("converting", "converted") as on_bytes:
        files = convert_pickled(directory, target, on_bytes)
    size = sum((target / name).stat().st_size for name in files)
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        report = {"target": str(target), "files": files, "bytes": size, "seconds": seconds}
        print(json_line(report | {"peak_rss_bytes": _peak_bytes()}))
    else:
        print(_summary(target, size, files, seconds))


def _print_converted(converted: Converted, seconds: float) -> None:
    print(_summary(converted.target, converted.bytes, converted.files, seconds))
    print(one_line(f"{_LAYOUTS[converted.layout]}, context {converted.context}, MLP width {converted.mlp_width}"))
    if converted.zero_channels:
        change = "removed from" if converted.layout == "qwen1" else "added to"
        print(one_line(f"{converted.zero_channels} zero channels {change} the MLP"))


def _summary(target: object, size: int, files: Sequence[str], seconds: float) -> str:
    done = f"{format_bytes(size)} in {len(files)} files, converted in {seconds:.1f} s"
    return one_line(f"{target}: {done}; peak memory {format_bytes(_peak_bytes())}")


def _peak_bytes() -> int:
    """Peak resident memory of this process, or of the one that read the pickles, if that is more."""
    from qwartet.bench.latency import peak_rss_bytes

    return max(peak_rss_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
