"""Options that several verbs share, and what the one about threads does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from qwartet.cli.units import parse_count, parse_gpu_memory
from qwartet.errors import SettingError


def _parser(parse: Callable[[str], int]) -> Callable[[str | int], int]:
    def parsed(text: str | int) -> int:
        if isinstance(text, int):  # a default
            return text
        try:
            return parse(text)
        except SettingError as error:
            raise typer.BadParameter(str(error)) from None

    return parsed


def count_option(help: str, **settings: Any) -> Any:
    """An option that takes a count as people write it: 4096, 32k, 32K."""
    return typer.Option(parser=_parser(parse_count), metavar="COUNT", help=help, **settings)


def bytes_option(help: str, **settings: Any) -> Any:
    """An option that takes a memory size: 48GiB, 80GB."""
    return typer.Option(parser=_parser(parse_gpu_memory), metavar="SIZE", help=help, **settings)


ModelArgument = Annotated[
    str | None, typer.Argument(help="Directory of a checkpoint, or hub id.", show_default="the bundled model")
]
Dtype = Annotated[Literal["auto", "bf16", "fp16", "fp32"], typer.Option(help="What to compute in.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Activations = Annotated[
    Literal["int8", "exact"] | None,
    typer.Option(help="How inputs of quantised weights are rounded: 8 bits where that is enough, or always 16."),
]
Head = Annotated[
    Literal["auto", "int8", "exact"], typer.Option(help="int8: greedy tokens come from an 8-bit copy; the same ones.")
]
KvCacheDtype = Annotated[
    Literal["auto", "int8", "int4"],
    typer.Option(help="int8: half of the memory; int4: a quarter, and less exact; auto: what the model computes in."),
]
MaxNumSeqs = Annotated[int, typer.Option(help="Completions that are made at once.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the CPU kernels; all cores if left out.")]
Source = Annotated[
    Literal["hf", "modelscope"], typer.Option(help="The hub; a prefix of the id goes before it: modelscope:OWNER/NAME.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
JsonLine = Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")]


def set_threads(count: int | None) -> None:
    """Sets the threads of the native kernels and of torch, where a number is given; SettingError outside 1..256."""
    if count is None:
        return
    if not 1 <= count <= 256:
        raise SettingError(f"--threads is {count}; it must lie in 1..256")
    import torch

    from qwartet.kernels.cpu.library import native_library

    torch.set_num_threads(count)
    if (library := native_library()) is not None:
        library.set_num_threads(count)
