"""`qwartet inspect`: what a checkpoint contains, and what is wrong with it, without running it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwartet.cli.language.catalogue import label
from qwartet.cli.language.columns import padded
from qwartet.cli.model_lines import files_line, gptq_line, kind_line, model_line, positions_line
from qwartet.cli.options import AsJson, Revision
from qwartet.cli.terminal import error_line, json_line, one_line, untranslated_line
from qwartet.cli.units import format_bytes
from qwartet.hub.resolve import resolve

if TYPE_CHECKING:
    from qwartet.models.inspection import Inspection


def inspect(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Checkpoint directory, or hub id of a downloaded model.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: AsJson = False,
    revision: Revision = None,
) -> int:
    """Show what a checkpoint contains and check it for faults.

    It reads every weight, but runs and downloads nothing. All problems found are listed; the exit code is 2 if there
    are any.
    """
    directory = resolve(model, revision=revision, download=False)
    from qwartet.models.inspection import inspect_checkpoint

    found = inspect_checkpoint(directory)
    if as_json:
        content = asdict(found)
        if not tensors:
            del content["tensors"]
        print(json_line(content))
    else:
        for line in _lines(found, tensors):
            print(line)
    return 2 if found.problems else 0


def _lines(found: Inspection, with_tensors: bool) -> Iterator[str]:
    yield untranslated_line(found.path)
    for name, text in _facts(found):
        yield f"  {padded(label(name), 14)}{one_line(text)}"
    if with_tensors:
        yield ""
        for tensor in found.tensors:
            shape = " x ".join(map(str, tensor["shape"]))
            name = error_line(tensor["name"])
            yield untranslated_line(f"  {name:<44} {tensor['dtype']:<5} {shape:<18} {tensor['file']}")
    for text in found.warnings:
        yield error_line(f"warning: {text}")
    for text in found.problems:
        yield error_line(f"problem: {text}")
    yield one_line(f"{len(found.problems) or 'no'} problem{'' if len(found.problems) == 1 else 's'} found")


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """The facts as (label, sentence); parts that could not be read are left out."""
    parts = (
        ("model", found.model, model_line),
        ("positions", found.model, positions_line),
        ("kind", found.sampling, kind_line),
        ("quantised", found.quantization, _quantization_line),
        ("weights", found.weights, _weights_line),
        ("memory", found.memory, _memory_line),
        ("tokenizer", found.tokenizer, _tokenizer_line),
    )
    yield from ((name, describe(part)) for name, part, describe in parts if part is not None)
    for name, is_used in (("files", True), ("ignored files", False)):
        files = [file for file in found.files if file["is_used"] is is_used]
        if files:
            yield name, files_line(files)


def _quantization_line(quantization: dict[str, Any]) -> str:
    zeros = " and ".join(quantization["zero_format"]) or "?"
    return (
        f"{gptq_line(quantization)}, zeros stored as {zeros}; "
        f"{quantization['num_sound_linears']} of {quantization['num_linears']} linear layers are sound"
    )


def _weights_line(weights: dict[str, Any]) -> str:
    shares = ", ".join(f"{dtype} {format_bytes(size)}" for dtype, size in weights["bytes_by_dtype"].items())
    files = "1 file" if weights["num_files"] == 1 else f"{weights['num_files']} files"
    return f"{format_bytes(weights['bytes'])} in {weights['num_tensors']} tensors, {files}: {shares}"


def _memory_line(memory: dict[str, Any]) -> str:
    sizes = {key: format_bytes(value) for key, value in memory.items() if isinstance(value, int)}
    return (
        "{weights_bytes} of weights, computing in {dtype}; KV cache {kv_bytes_per_token} per token, "
        "{kv_bytes_full_context} for the full context; {available_bytes} free"
    ).format_map({**memory, **sizes})


def _tokenizer_line(tokenizer: dict[str, Any]) -> str:
    if not tokenizer["file"].endswith(".tiktoken"):
        templates = {"published": "a published chat template", "own": "a chat template of its own"}
        template = templates.get(tokenizer["chat_template"], "no chat template")
        return "{file}: {num_ranks} tokens, {num_tokens} ids; {template}".format_map(
            {**tokenizer, "template": template}
        )
    origin = "the published vocabulary" if tokenizer["is_published"] else "not the published vocabulary"
    counts = "{file}: {num_ranks} ranks, {num_tokens} ids".format_map(tokenizer)
    if tokenizer["extra_file"] is not None:
        counts += f", with the extra vocabulary {tokenizer['extra_file']}"
    return f"{counts}; {origin} (sha256 {tokenizer['sha256'][:12]}...)"
