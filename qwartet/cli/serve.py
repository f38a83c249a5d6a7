"""`qwartet serve`: OpenAI's API and a web page for one model."""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet import DEMO
from qwartet.cli.extras import require
from qwartet.cli.loading import LoadOptions, own_names
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import MaxNumSeqs, ModelArgument, set_threads
from qwartet.cli.terminal import inert, one_line
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError, VocabularyError
from qwartet.files import decode_text, kind_of
from qwartet.hub.resolve import looks_like_hub_id, resolve
from qwartet.server.access import LOOPBACK_HOSTS, Access
from qwartet.server.limits import Limits

if TYPE_CHECKING:
    from qwartet.llm import LLM

MIN_KEY_CHARS = 8
MAX_KEY_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class AccessOptions:
    """Where a server is found, and who is let in."""

    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all, and then a key is wanted.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")] = 8000
    uds: Annotated[Path | None, typer.Option(help="Listen on this Unix socket instead.")] = None
    api_key: Annotated[
        list[str] | None, typer.Option(envvar="QWARTET_API_KEY", help="A key that requests have to send; repeatable.")
    ] = field(default=None, repr=False)
    api_key_file: Annotated[Path | None, typer.Option(help="A file of such keys, one a line.")] = None
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other machines without a key.")] = False
    allowed_hosts: Annotated[
        list[str] | None, typer.Option(help="More names by which the server may be called; * is any; repeatable.")
    ] = None


@with_groups
def serve(
    *,
    model: ModelArgument = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="What requests may call the model, before its own name; repeatable.")
    ] = None,
    access: AccessOptions,
    allowed_origins: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may use the API; repeatable.")
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path under which a proxy shows the server.")] = "",
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate, for https.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="The certificate's key.")] = None,
    limits: Limits,
    ui: Annotated[bool, typer.Option(help="The web page at /.")] = True,
    docs: Annotated[bool, typer.Option(help="The API's description at /docs and /openapi.json.")] = True,
    access_log: Annotated[bool, typer.Option(help="A line for each request, without what it says.")] = True,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged, on stderr.")
    ] = "info",
    max_num_seqs: MaxNumSeqs = EngineConfig.max_num_seqs,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a step; 512 on a CPU if left out.")
    ] = EngineConfig.max_num_batched_tokens,
    max_stall: Annotated[
        float,
        typer.Option(min=0, help="Seconds that running answers wait for a chunk of a prompt; 0: for a whole step."),
    ] = 0.5,
    load: LoadOptions,
) -> None:
    """Serve a model: OpenAI's API at /v1, a web page at /.

    Only this machine is served unless told otherwise. Ctrl-C or SIGTERM lets open answers end; a second one ends them.
    """
    require("server", "serve", "fastapi", "uvicorn", "prometheus_client")
    names = [*(served_model_name or ()), *own_names(model)]
    allowed = _access(access)
    _readable(ssl_certfile, ssl_keyfile)
    if model is not None and not looks_like_hub_id(model):
        resolve(model, revision=load.revision)  # so that a wrong path is told at once
    from qwartet.server.listener import bind, bind_unix
    from qwartet.server.stderr import unread_stderr

    listener = bind(access.host, access.port, limits.write_timeout_s) if access.uds is None else bind_unix(access.uds)
    with listener, unread_stderr():
        print(one_line(f"{_url(listener, access.uds, ssl_certfile)}  (loading {names[-1]})"), file=sys.stderr)
        # After everything that can be wrong with the settings: these take seconds to import.
        from qwartet.server.app import make_app
        from qwartet.server.run import serve as serve_until_stopped
        from qwartet.server.service import Service

        set_threads(load.threads)
        _start_log(log_level)
        service = Service(limits)
        app = make_app(
            service, allowed, allowed_origins=allowed_origins or (), root_path=root_path, has_page=ui, has_docs=docs,
            has_access_log=access_log,
        )  # fmt: skip
        load_model = partial(
            _load, load, model, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens,
            max_stall_s=max_stall or None,
        )  # fmt: skip
        code = serve_until_stopped(app, service, listener, load_model, names, ssl_certfile, ssl_keyfile)
    if access.uds is not None:
        access.uds.unlink(missing_ok=True)
    if code:
        raise typer.Exit(code)


def _load(options: LoadOptions, model: str | None, **engine: Any) -> LLM:
    """The model to serve; VocabularyError, before its weights are read, where it has no words to answer with."""
    from qwartet.models.families import family_of, load_config

    path = DEMO if model is None else resolve(model, revision=options.revision)
    if not family_of(load_config(path)).has_tokenizer(path):
        raise VocabularyError(
            path, "holds no .tiktoken file, and a server needs one", hint="copy qwen.tiktoken into it"
        )
    return options.load(model, **engine)


def _access(options: AccessOptions) -> Access:
    """Who is let in; SettingError where others could come without a key."""
    host, is_unix = options.host, options.uds is not None
    is_local = is_unix or host in ("127.0.0.1", "::1", "localhost")
    access = Access(
        api_keys=_keys(options.api_key or [], options.api_key_file),
        allowed_hosts=_hosts(options.allowed_hosts or [], is_guarded=is_local and not is_unix),
    )
    if not (is_local or access.api_keys or options.insecure):
        raise SettingError(f"{host} can be reached by others; set --api-key, or --insecure to serve them without one")
    return access


def _hosts(given: list[str], *, is_guarded: bool) -> list[str] | None:
    """Names that are answered. A foreign page reaches a server of this machine, which trusts its users, by a name of
    its own that leads here; a Unix socket it cannot reach."""
    return None if "*" in given or not (is_guarded or given) else [*LOOPBACK_HOSTS, *given]


def _keys(given: list[str], file: Path | None) -> list[str]:
    keys = list(given)
    if file is not None:
        content, mode = _read_once(file)
        try:
            keys += [line.strip() for line in decode_text(content).splitlines() if line.strip()]
        except ValueError as error:
            raise SettingError(f"{file}: {error}") from None
        if not keys:
            raise SettingError(f"{file} holds no key; write one a line")
        if mode & stat.S_IROTH:
            print(one_line(f"warning: {file} can be read by everybody; chmod o-r it"), file=sys.stderr)
    for key in keys:
        if len(key) < MIN_KEY_CHARS or not (key.isascii() and key.isprintable()) or " " in key:
            message = f"an API key is not {MIN_KEY_CHARS} or more printable ASCII characters without spaces"
            raise SettingError(f"{message}; `openssl rand -hex 24` makes one")
    return keys


def _read_once(file: Path) -> tuple[bytes, int]:
    """A key file's content and mode. It may be a pipe: opening that waits for a writer, and works only once."""
    try:
        if kind_of(file) == "a pipe":
            print(one_line(f"reading API keys from the pipe {file}"), file=sys.stderr)
        with file.open("rb") as stream:
            mode, content = os.fstat(stream.fileno()).st_mode, stream.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(file, error) from None
    if len(content) > MAX_KEY_FILE_BYTES:
        raise SettingError(f"{file} has more than {MAX_KEY_FILE_BYTES} bytes; a key file holds one key per line")
    return content, mode


def _readable(*files: Path | None) -> None:
    """SettingError for a file that cannot be read. A pipe is not opened: its reader could not open it again."""
    for file in filter(None, files):
        try:
            if kind_of(file) != "a pipe":
                file.open("rb").close()
        except OSError as error:
            raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> SettingError:
    return SettingError(f"{file} cannot be read ({error.strerror}); check the path and its permissions")


def _url(listener: socket.socket, uds: Path | None, certificate: Path | None) -> str:
    """Where the server is found."""
    if uds is not None:
        return f"unix:{uds}"
    address, port = listener.getsockname()[:2]
    name = f"[{address}]" if ":" in address else address
    return f"http{'' if certificate is None else 's'}://{name}:{port}"


def _start_log(level: str) -> None:
    """Has the log written to stderr, no line of it longer than what was meant."""

    class Inert(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return inert(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(Inert("%(asctime)s %(levelname)s %(message)s"))
    for name, at_least in (("qwartet", level.upper()), ("uvicorn", "WARNING"), ("asyncio", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(at_least)
