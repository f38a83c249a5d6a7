"""`qwartet chat`: a conversation, or one answer."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwartet import DEMO
from qwartet.cli.configuration import typed_or_set
from qwartet.cli.options import (
    Activations,
    Device,
    DraftModel,
    Dtype,
    Force,
    Head,
    KvCacheDtype,
    LoadMode,
    MaxModelLen,
    Revision,
    Speculation,
    Threads,
    WeightCache,
    set_threads,
)
from qwartet.cli.progress import byte_progress
from qwartet.cli.terminal import json_line, one_line, printable
from qwartet.cli.units import format_bytes, format_count
from qwartet.errors import ModelNotFoundError, NotAChatModelError, SettingError
from qwartet.models.hub import looks_like_hub_id, resolve

if TYPE_CHECKING:
    from qwartet.llm import LLM


def chat(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            show_default="the bundled model",
            help="Directory of a checkpoint, or hub id. If it is alone and can be neither, it is the prompt.",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Argument(show_default=False, help="Answer this once; or pipe it in.")] = None,
    prompt_option: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt, as an option.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Probability mass to sample from.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Candidates to sample from; 0: all.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: fewer repetitions.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    revision: Revision = None,
    load_mode: LoadMode = "mmap",
    max_model_len: MaxModelLen = None,
    activations: Activations = None,
    head: Head = "auto",
    kv_cache_dtype: KvCacheDtype = "auto",
    draft_model: DraftModel = None,
    speculation: Speculation = "prompt-lookup",
    threads: Threads = None,
    weight_cache: WeightCache = True,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line about the model.")] = False,
) -> None:
    """Talk to a model, or have it answer one prompt.

    Sampling defaults are the checkpoint's own. In a conversation, /help lists the commands.
    """
    typed, set_model = typed_or_set(context, "model")
    model, prompt = _model_and_prompt(typed, prompt, prompt_option)
    model = model or set_model
    sampling = _sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        seed=seed,
        do_sample=False if greedy else None,
    )
    directory = _directory(model, revision)
    prompt = _piped_prompt() if prompt is None and not sys.stdin.isatty() else prompt
    if prompt is None and as_json:
        raise SettingError("--json answers one prompt; give it with --prompt, or pipe it in")
    set_threads(threads)
    started = time.perf_counter()
    llm = _load(
        directory, dtype=dtype, device=device, load_mode=load_mode, max_model_len=max_model_len, force=force,
        activations=activations, head=head, kv_cache_dtype=kv_cache_dtype, draft_model=draft_model,
        speculation=speculation, weight_cache=weight_cache,
    )  # fmt: skip
    if not quiet:
        print(one_line(_summary(model, llm, time.perf_counter() - started)), file=sys.stderr)
    if prompt is None:
        from qwartet.cli.session import Session

        Session(llm, system=system, sampling=sampling).run()
    elif as_json:
        print(json_line(_answer(llm, prompt, system, sampling)))
    else:
        for piece in llm.chat_stream(prompt, system=system, **sampling):
            print(printable(piece, sys.stdout), end="", flush=True)
        print()


def _model_and_prompt(model: str | None, prompt: str | None, option: str | None) -> tuple[str | None, str | None]:
    """What the two positional arguments and --prompt mean together."""
    if prompt is not None and option is not None:
        raise SettingError("the prompt is given twice; give it as an argument or with --prompt")
    if model is not None and prompt is None and option is None and not _may_be_model(model):
        return None, model
    return model, prompt if option is None else option


def _may_be_model(name: str) -> bool:
    """Whether a lone argument is a model: it exists, it is written as a path, or it has the form of a hub id."""
    return looks_like_hub_id(name) or name.startswith(("/", "./", "../", "~")) or os.path.lexists(name)


def _sampling(**options: Any) -> dict[str, Any]:
    """The sampling options that were given; SettingError for what no checkpoint could be sampled with."""
    from qwartet.engine.sampling_params import SamplingParams

    given = {name: value for name, value in options.items() if value is not None}
    if given.get("do_sample") is False and given.get("temperature"):
        raise SettingError(f"--greedy contradicts --temperature {given['temperature']:g}; give one of them")
    SamplingParams().updated(given)
    return given


def _directory(model: str | None, revision: str | None) -> Path:
    """Directory of the model, downloaded if it is not here yet; ModelNotFoundError when there is none."""
    if model is None:
        if revision is not None:
            raise SettingError("--revision needs a hub id; give the model too")
        if not (DEMO / "config.json").is_file():
            raise ModelNotFoundError(f"{DEMO}: the bundled model is not there; give a model, or install Qwartet again")
        return DEMO
    try:
        return resolve(model, revision=revision)
    except ModelNotFoundError as error:
        if "/" in model:
            raise
        raise ModelNotFoundError(f"{error} (to say it to the bundled model: qwartet chat -p {model})") from error


def _piped_prompt() -> str:
    text = sys.stdin.read()
    if not text.strip():
        raise SettingError("there is nothing on standard input; give a prompt with --prompt, or run it in a terminal")
    return text.rstrip("\r\n")


def _load(directory: Path, **options: Any) -> LLM:
    from qwartet.llm import LLM

    with byte_progress("packing the weights, once", "packed (kept for the next start)") as on_packed:
        llm = LLM(directory, on_packed=on_packed, **options)
    if not llm.generation_defaults.is_chat:
        hint = "use a -Chat checkpoint, or complete text with qwartet.LLM(...).generate"
        raise NotAChatModelError(f"{directory}: is a base model (chat_format raw), which does not chat; {hint}")
    return llm


def _summary(model: str | None, llm: LLM, seconds: float) -> str:
    """One line about what was loaded: model, size, dtype, kernels and how near to the memory's speed, time."""
    network = llm.model
    size = sum(file.stat().st_size for file in llm.model_path.glob("*.safetensors"))
    kernels = ", ".join(f"{what}: {name}" for what, name in network.kernels.names.items())
    return (
        f"{model or 'bundled model'}: {format_count(network.config.num_parameters)} parameters, {format_bytes(size)}; "
        f"{str(network.dtype).removeprefix('torch.')} on {network.device}; {kernels}{_bandwidth(llm)}; "
        f"loaded in {seconds:.1f} s"
    )


def _bandwidth(llm: LLM) -> str:
    """How fast the weights are read, where they are large enough to say; nothing for weights that are on a disk."""
    from qwartet.kernels.bandwidth import measure_bandwidth

    if llm.model.stream is not None or (found := measure_bandwidth(llm.model.packed_weights())) is None:
        return ""
    return f"; weights at {found.linear_gb_s:.0f} GB/s, {found.share:.0%} of what this memory gives"


def _answer(llm: LLM, prompt: str, system: str | None, sampling: dict[str, Any]) -> dict[str, Any]:
    """One answer with its figures, for --json; `seconds` is the time to answer, loading not counted."""
    from qwartet.tokenizer.chatml import Message, build_prompt

    instructions = [] if system is None else [Message("system", system)]
    started = time.perf_counter()
    prompt_ids = build_prompt(llm.tokenizer, [*instructions, Message("user", prompt)])
    completion = llm.generate(prompt_ids, llm.sampling_params(**sampling))[0]
    return {
        "response": completion.text.strip(),
        "finish_reason": completion.finish_reason,
        "prompt_tokens": len(completion.prompt_ids),
        "completion_tokens": len(completion.token_ids),
        "seconds": round(time.perf_counter() - started, 3),
    }
