"""`qwartet chat`: a conversation, or one answer."""

from __future__ import annotations

import os
import stat
import sys
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwartet import DEMO
from qwartet.cli.adapters import directory_of
from qwartet.cli.chat.answer_view import AnswerView, answer_view, can_move_cursor
from qwartet.cli.loading import LoadOptions
from qwartet.cli.model_lines import kernels_text
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import AsJson, set_threads
from qwartet.cli.settings.configuration import typed_or_set
from qwartet.cli.terminal import error_line, json_line, one_line
from qwartet.cli.units import format_bytes, format_count
from qwartet.errors import ModelNotFoundError, NotAChatModelError, SettingError
from qwartet.files import decode_text
from qwartet.hub.resolve import looks_like_hub_id, resolve

if TYPE_CHECKING:
    from qwartet.cli.chat.conversant import Conversant
    from qwartet.cli.chat.session import ReadMessage, Session
    from qwartet.llm import LLM
    from qwartet.tokenizer.answer_delta import AnswerDelta


_MODELS = "the model's"  # default, as --help shows it
_ADAPTER = "adapter"  # name of the adapter of a conversation


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling settings."""

    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0 is greedy.", show_default=_MODELS)
    ] = None
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the top tokens with this total probability.", show_default=_MODELS)
    ] = None
    top_k: Annotated[
        int | None, typer.Option(help="Sample from this many top tokens; 0: all.", show_default=_MODELS)
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1, repetitions become less likely.", show_default=_MODELS)
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum length of an answer, in tokens.", show_default=_MODELS)
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Random seed, to make sampling repeatable.", show_default="random")
    ] = None
    greedy: Annotated[bool, typer.Option("--greedy", help="Always choose the most probable token.")] = False

    def given(self) -> dict[str, Any]:
        """The settings that are set; SettingError for values outside their bounds."""
        from qwartet.cli.chat.sampling_settings import checked

        settings = {name: value for name, value in vars(self).items() if name != "greedy" and value is not None}
        if self.greedy and settings.get("temperature"):
            raise SettingError(f"--greedy contradicts --temperature {settings['temperature']:g}; use one of them")
        return checked(settings | {"temperature": 0.0} if self.greedy else settings)


@dataclass(frozen=True)
class ServerOptions:
    """A server to ask instead of a local model."""

    url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server to ask instead of a local model: http://HOST:PORT.")
    ] = None
    api_key: Annotated[
        str | None, typer.Option(envvar="QWARTET_API_KEY", help="API key of the server; other users can see arguments.")
    ] = field(default=None, repr=False)
    model_name: Annotated[
        str | None, typer.Option("--model", help="Name of the model on the server.", show_default="its first")
    ] = None
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the next data from the server.")] = 600.0


@with_groups
def chat(
    context: typer.Context,
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            show_default="the bundled model",
            help="Checkpoint directory or hub id; a lone argument that can be neither is the prompt.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Argument(show_default=False, help="Prompt to answer once; piped text goes before it.")
    ] = None,
    prompt_option: Annotated[str | None, typer.Option("--prompt", "-p", help="PROMPT as an option.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.", show_default=_MODELS)] = None,
    thinking: Annotated[
        bool | None,
        typer.Option(
            "--thinking/--no-thinking",
            help="Think before answering, or not, with models that can do both.",
            show_default=_MODELS,
        ),
    ] = None,
    sampling: SamplingOptions,
    server: ServerOptions,
    load: LoadOptions,
    lora: Annotated[Path | None, typer.Option(metavar="DIR", help="LoRA adapter (PEFT) to chat with.")] = None,
    history: Annotated[
        bool, typer.Option(envvar="QWARTET_HISTORY", help="Keep entered messages for the next run.")
    ] = True,
    markdown: Annotated[bool, typer.Option(help="Render Markdown in answers on a terminal.")] = True,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide the line about the model.")] = False,
) -> None:
    """Chat with a model, or answer one prompt.

    cat notes.txt | qwartet chat "Summarise this" asks about a file.

    Sampling defaults come from the checkpoint or the server. In a conversation, /help lists the commands.
    """
    _check_place(context)
    settings = sampling.given()
    typed, set_model = typed_or_set(context, "model")
    model, prompt = _model_and_prompt(typed, prompt, prompt_option, server.url is not None)
    model = model or set_model
    directory = None if server.url is not None else _directory(model, load.revision)
    prompt = _with_piped_text(prompt)
    if prompt is None and as_json:
        raise SettingError("--json needs a prompt; pass one with --prompt, or pipe it in")
    if directory is None:
        conversant, summary = _connect(server, thinking)
    else:
        conversant, summary = _local(directory, model, replace(load, revision=None), lora, thinking)
    if not quiet:
        print(one_line(summary), file=sys.stderr)
    if prompt is not None:
        _answer_once(conversant, prompt, system, settings, answer_view(markdown), as_json)
        return
    from qwartet.cli.chat.session import Session

    session = Session(conversant, system=system, sampling=settings, wants_markdown=markdown)
    session.run(_reader(session, history))


def _check_place(context: typer.Context) -> None:
    """SettingError for options on the command line that have no effect where the model runs."""
    is_remote = context.params["url"] is not None
    of_models = ("lora", *(one.name for one in fields(LoadOptions)))
    for name in of_models if is_remote else [one.name for one in fields(ServerOptions)]:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--model" if name == "model_name" else f"--{name.replace('_', '-')}"
            what = "applies to local models; remove it or --url" if is_remote else "applies to servers; set --url too"
            raise SettingError(f"{option} {what}")


def _model_and_prompt(
    model: str | None, prompt: str | None, option: str | None, is_remote: bool
) -> tuple[str | None, str | None]:
    """What the two positional arguments and --prompt mean together; a server's model is named by --model alone."""
    if is_remote:
        if prompt is not None:
            raise SettingError(f"unexpected argument {model!r:.80} with --url; name a server's model with --model")
        model, prompt = None, model
    if prompt is not None and option is not None:
        raise SettingError("the prompt is given twice; pass it as an argument or with --prompt")
    if model is not None and prompt is None and option is None and not _may_be_model(model):
        return None, model
    return model, prompt if option is None else option


def _may_be_model(name: str) -> bool:
    """Whether a lone argument is a model: it exists, it is written as a path, or it has the form of a hub id."""
    return looks_like_hub_id(name) or name.startswith(("/", "./", "../", "~")) or os.path.lexists(name)


def _directory(model: str | None, revision: str | None) -> Path:
    """Directory of the model, downloaded if necessary; ModelNotFoundError if there is no such model."""
    if model is None:
        if revision is not None:
            raise SettingError("--revision needs a hub id; name a model too")
        if not (DEMO / "config.json").is_file():
            raise ModelNotFoundError(f"{DEMO}: the bundled model is missing; name a model, or reinstall Qwartet")
        return DEMO
    try:
        return resolve(model, revision=revision)
    except ModelNotFoundError as error:
        if "/" in model:
            raise
        raise ModelNotFoundError(f"{error} (to send it to the bundled model: qwartet chat -p {model})") from error


def _with_piped_text(prompt: str | None) -> str | None:
    """The piped text and the prompt; None on a terminal without a prompt."""
    if sys.stdin.isatty() or (prompt is not None and not _is_piped()):
        return prompt
    try:
        text = decode_text(sys.stdin.buffer.read()).rstrip("\r\n")
    except ValueError as error:
        raise SettingError(f"standard input: {error}") from None
    if prompt is None and not text.strip():
        raise SettingError("standard input is empty; pass a prompt with --prompt, or run it in a terminal")
    return "\n\n".join(part for part in (text, prompt) if part)


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file, not /dev/null or a socket, with which services run."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed, or no file
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _connect(options: ServerOptions, thinking: bool | None) -> tuple[Conversant, str]:
    """A server's model, by default its first, and a line about it."""
    from qwartet.cli.chat.conversant import RemoteModel
    from qwartet.client.openai_server import OpenAIServer, ServedModel

    assert options.url is not None, "without one, a model is loaded here"
    server, name = OpenAIServer(options.url, api_key=options.api_key, timeout_s=options.timeout), options.model_name
    address = server.address
    if options.api_key is not None and address.scheme == "http" and not address.is_loopback:
        risk = f"the API key is sent to {address.host} unencrypted; use https:// if the server supports it"
        print(error_line(f"warning: {risk}"), file=sys.stderr)
    served = server.models()
    named = [model for model in served if name in (None, model.name)]
    model = named[0] if named else ServedModel(name or "")  # some servers accept names that they do not list
    length = "" if model.context_length is None else f", context of {model.context_length:,} tokens"
    others = f", the first of {len(served)} models" if name is None and len(served) > 1 else ""
    return RemoteModel(server, model, enable_thinking=thinking), f"{address}: {model.name}{length}{others}"


def _local(
    directory: Path, name: str | None, options: LoadOptions, lora: Path | None, thinking: bool | None
) -> tuple[Conversant, str]:
    """A local model, with an adapter or without, and a line about it."""
    from qwartet.cli.chat.conversant import LocalModel

    set_threads(options.threads)
    started = time.perf_counter()
    adapters = {} if lora is None else {_ADAPTER: directory_of(lora)}
    llm = options.load(directory, adapters=adapters)
    if not llm.generation_defaults.is_chat:
        refusal = llm.generation_defaults.chat_refusal
        raise NotAChatModelError(f"{directory}: {refusal}, or qwartet.LLM(...).generate")
    adapter = next(iter(adapters), None)
    return LocalModel(llm, adapter, enable_thinking=thinking), _summary(name, llm, time.perf_counter() - started)


def _summary(model: str | None, llm: LLM, seconds: float) -> str:
    """One line about what was loaded: model, size, dtype, kernels, share of the memory bandwidth, time."""
    network = llm.model
    size = sum(file.stat().st_size for file in llm.model_path.glob("*.safetensors"))
    kernels = kernels_text(network.backend.names)
    return (
        f"{model or 'bundled model'}: {format_count(network.config.num_parameters)} parameters, {format_bytes(size)}; "
        f"{str(network.dtype).removeprefix('torch.')} on {network.device}; {kernels}{_bandwidth(llm)}; {_adapter(llm)}"
        f"loaded in {seconds:.1f} s"
    )


def _adapter(llm: LLM) -> str:
    """What the adapter takes, if there is one."""
    found = llm.engine.adapters
    return f"LoRA adapter of rank {found.rank}, {format_bytes(found.num_bytes)}; " if found.numbers else ""


def _bandwidth(llm: LLM) -> str:
    """How fast the weights are read, if they are large enough to tell; nothing for weights streamed from disk."""
    from qwartet.kernels.cpu.bandwidth import measure_bandwidth
    from qwartet.layers.linear import QuantizedLinear
    from qwartet.layers.weight_stream import StreamedLayers

    layers = llm.model.layers
    weights = (module.prepared for module in layers.modules() if isinstance(module, QuantizedLinear))
    if isinstance(layers, StreamedLayers) or (found := measure_bandwidth(llm.model.backend, weights)) is None:
        return ""
    return f"; weights at {found.linear_gb_s:.0f} GB/s, {found.share:.0%} of the memory bandwidth"


def _answer_once(
    conversant: Conversant,
    prompt: str,
    system: str | None,
    sampling: dict[str, Any],
    view: AnswerView,
    as_json: bool,
) -> None:
    """Prints one answer as it comes, or with its figures as JSON; `seconds` is the time to answer, without loading."""
    from qwartet.cli.chat.conversant import read_answer

    deltas: list[AnswerDelta] = []

    def show(delta: AnswerDelta) -> None:
        deltas.append(delta)
        if not as_json:
            view.show(delta)

    started = time.perf_counter()
    try:
        end = read_answer(conversant.chat_stream(prompt, [], system, **sampling), show)
    except Exception:
        if deltas and not as_json:
            view.end()
        raise
    if not as_json:
        view.end()
        return
    reasoning = "".join(delta.reasoning for delta in deltas)
    answer = {
        "response": "".join(delta.text for delta in deltas),
        **({"reasoning": reasoning} if reasoning else {}),
        "finish_reason": end.finish_reason,
        "prompt_tokens": end.num_prompt_tokens,
        "completion_tokens": end.num_completion_tokens,
        "seconds": round(time.perf_counter() - started, 3),
    }
    print(json_line(answer))


def _reader(session: Session, keeps_history: bool) -> ReadMessage:
    """How messages are read: with a line editor if the terminal can move its cursor."""
    from qwartet.cli.chat.session import read_plainly

    if not sys.stdin.isatty() or not can_move_cursor():
        return read_plainly
    from qwartet.cli.chat.editor import Editor
    from qwartet.files import state_directory

    return Editor(session.commands.completions, state_directory() / "chat_history" if keeps_history else None).read
