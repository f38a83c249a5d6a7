"""`qwartet serve`: an OpenAI-compatible API and a web page for one model."""

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
from qwartet.cli.adapters import Loras, adapter_directories
from qwartet.cli.extras import require
from qwartet.cli.loading import LoadOptions, own_names
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import MaxNumSeqs, ModelArgument, set_threads
from qwartet.cli.terminal import inert, one_line
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError
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
    """The address of a server, and who may use it."""

    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 listens on all interfaces and requires an API key.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")] = 8000
    uds: Annotated[Path | None, typer.Option(help="Listen on this Unix socket instead.")] = None
    api_key: Annotated[
        list[str] | None, typer.Option(envvar="QWARTET_API_KEY", help="API key that requests must send; repeatable.")
    ] = field(default=None, repr=False)
    api_key_file: Annotated[Path | None, typer.Option(help="File of API keys, one per line.")] = None
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept other machines without an API key.")] = False
    allowed_hosts: Annotated[
        list[str] | None, typer.Option(help="Additional Host header to accept; * accepts any; repeatable.")
    ] = None


@with_groups
def serve(
    *,
    model: ModelArgument = None,
    access: AccessOptions,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="Name of the model in the API, besides its own; repeatable.")
    ] = None,
    load: LoadOptions,
    lora: Loras = None,
    max_num_seqs: MaxNumSeqs = EngineConfig.max_num_seqs,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Maximum tokens per step.", show_default="512 on a CPU, 2048 on a GPU")
    ] = EngineConfig.max_num_batched_tokens,
    max_stall: Annotated[
        float,
        typer.Option(min=0, help="Longest pause of running answers for a chunk of a prompt, in seconds; 0: no limit."),
    ] = 0.5,
    limits: Limits,
    ui: Annotated[bool, typer.Option(help="Serve the web page at /.")] = True,
    docs: Annotated[bool, typer.Option(help="Serve the API's documentation at /docs and /openapi.json.")] = True,
    allowed_origins: Annotated[
        list[str] | None, typer.Option(help="Origin whose web pages may call the API (CORS); repeatable.")
    ] = None,
    root_path: Annotated[str, typer.Option(help="URL path under which a reverse proxy exposes the server.")] = "",
    ssl_certfile: Annotated[Path | None, typer.Option(help="TLS certificate, to serve HTTPS.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Private key of the certificate.")] = None,
    access_log: Annotated[bool, typer.Option(help="Log a line for each request, without its content.")] = True,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Least severe messages to log, on stderr.")
    ] = "info",
) -> None:
    """Serve a model: OpenAI-compatible API at /v1, web page at /.

    It listens on localhost unless told otherwise. Ctrl-C or SIGTERM lets running requests finish; a second one stops
    them.
    """
    require("server", "serve", "fastapi", "uvicorn", "prometheus_client")
    names = [*(served_model_name or ()), *own_names(model)]
    adapters = adapter_directories(lora or (), names)
    allowed = _access(access)
    _readable(ssl_certfile, ssl_keyfile)
    if model is not None and not looks_like_hub_id(model):
        resolve(model, revision=load.revision)  # so that a wrong path fails at once
    from qwartet.server.listener import bind, bind_unix
    from qwartet.server.stderr import unread_stderr

    listener = bind(access.host, access.port, limits.write_timeout_s) if access.uds is None else bind_unix(access.uds)
    with listener, unread_stderr():
        print(one_line(f"{_url(listener, access.uds, ssl_certfile)}  (loading {names[-1]})"), file=sys.stderr)
        # Imported after the settings have been checked: this takes seconds.
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
            max_stall_s=max_stall or None, adapters=adapters,
        )  # fmt: skip
        code = serve_until_stopped(app, service, listener, load_model, names, ssl_certfile, ssl_keyfile)
    if access.uds is not None:
        access.uds.unlink(missing_ok=True)
    if code:
        raise typer.Exit(code)


def _load(options: LoadOptions, model: str | None, **engine: Any) -> LLM:
    """The model to serve; VocabularyError, before its weights are read, if it has no vocabulary."""
    from qwartet.models.families import family_of, load_config, missing_vocabulary

    path = DEMO if model is None else resolve(model, revision=options.revision)
    family = family_of(load_config(path))
    if not family.has_tokenizer(path):
        raise missing_vocabulary(path, family)
    return options.load(model, **engine)


def _access(options: AccessOptions) -> Access:
    """Who may use the server; SettingError if other machines could do so without a key."""
    host, is_unix = options.host, options.uds is not None
    is_local = is_unix or host in ("127.0.0.1", "::1", "localhost")
    access = Access(
        api_keys=_keys(options.api_key or [], options.api_key_file),
        allowed_hosts=_hosts(options.allowed_hosts or [], is_guarded=is_local and not is_unix),
    )
    if not (is_local or access.api_keys or options.insecure):
        raise SettingError(
            f"{host} is reachable from other machines; set --api-key, or --insecure to serve them without one"
        )
    return access


def _hosts(given: list[str], *, is_guarded: bool) -> list[str] | None:
    """Host headers to accept; None accepts any. A server on localhost trusts local users, so a foreign web page must
    not reach it through a name of its own that resolves to this machine; a Unix socket is out of its reach."""
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
            raise SettingError(f"{file} contains no API key; write one per line")
        if mode & stat.S_IROTH:
            print(one_line(f"warning: {file} is readable by all users; run chmod o-r on it"), file=sys.stderr)
    for key in keys:
        if len(key) < MIN_KEY_CHARS or not (key.isascii() and key.isprintable()) or " " in key:
            message = f"an API key must be {MIN_KEY_CHARS} or more printable ASCII characters without spaces"
            raise SettingError(f"{message}; `openssl rand -hex 24` generates one")
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
    """The address of the server."""
    if uds is not None:
        return f"unix:{uds}"
    address, port = listener.getsockname()[:2]
    name = f"[{address}]" if ":" in address else address
    return f"http{'' if certificate is None else 's'}://{name}:{port}"


def _start_log(level: str) -> None:
    """Sends the log to stderr, without control characters."""

    class Inert(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return inert(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(Inert("%(asctime)s %(levelname)s %(message)s"))
    for name, at_least in (("qwartet", level.upper()), ("uvicorn", "WARNING"), ("asyncio", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(at_least)
