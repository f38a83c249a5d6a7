"""Options that several verbs share, and the setting of the number of threads."""

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
    str | None, typer.Argument(help="Checkpoint directory or hub id.", show_default="the bundled model")
]
Dtype = Annotated[Literal["auto", "bf16", "fp16", "fp32"], typer.Option(help="Data type of the computation.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Activations = Annotated[
    Literal["int8", "exact"] | None,
    typer.Option(
        help="Inputs of quantised layers: int8 where accurate enough, or exact (always 16 bits).", show_default="int8"
    ),
]
Head = Annotated[
    Literal["auto", "int8", "exact"],
    typer.Option(help="int8: choose greedy tokens with an 8-bit output head (identical results)."),
]
KvCacheDtype = Annotated[
    Literal["auto", "int8", "int4"],
    typer.Option(help="int8 halves the KV cache, int4 quarters it but is less accurate; auto: the compute dtype."),
]
MaxNumSeqs = Annotated[int, typer.Option(help="Maximum number of completions generated at once.")]
Threads = Annotated[int | None, typer.Option(help="Threads for the CPU kernels.", show_default="all cores")]
Source = Annotated[
    Literal["hf", "modelscope"], typer.Option(help="The hub; an id can also name it: modelscope:OWNER/NAME.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
JsonLine = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def set_threads(count: int | None) -> None:
    """Sets the number of threads of the native kernels and torch; None keeps it. SettingError outside 1..256."""
    if count is None:
        return
    if not 1 <= count <= 256:
        raise SettingError(f"--threads is {count}; it must be between 1 and 256")
    import torch

    from qwartet.kernels.cpu.library import native_library

    torch.set_num_threads(count)
    if (library := native_library()) is not None:
        library.set_num_threads(count)
