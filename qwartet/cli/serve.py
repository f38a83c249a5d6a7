"""`qwartet serve`: OpenAI's API and a web page for one model."""

from __future__ import annotations

import logging
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qwartet.cli import serve_options as only
from qwartet.cli.extras import require
from qwartet.cli.loading import load_llm, own_names
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
from qwartet.cli.terminal import inert, one_line
from qwartet.errors import SettingError
from qwartet.hub.resolve import looks_like_hub_id, resolve

if TYPE_CHECKING:
    from qwartet.llm import LLM
    from qwartet.server.access import Access
    from qwartet.server.limits import Limits

MIN_KEY_CHARS = 8


def serve(
    model: only.Model = None,
    host: only.Host = only.DEFAULT_HOST,
    port: only.Port = only.DEFAULT_PORT,
    uds: only.UnixSocket = None,
    served_model_name: only.ServedModelName = None,
    api_key: only.ApiKey = None,
    api_key_file: only.ApiKeyFile = None,
    insecure: only.Insecure = False,
    allowed_hosts: only.AllowedHosts = None,
    allowed_origins: only.AllowedOrigins = None,
    root_path: only.RootPath = "",
    ssl_certfile: only.SslCertfile = None,
    ssl_keyfile: only.SslKeyfile = None,
    max_num_seqs: only.MaxNumSeqs = 16,
    max_num_batched_tokens: only.MaxNumBatchedTokens = None,
    max_stall: only.MaxStall = 0.5,
    max_model_len: MaxModelLen = None,
    max_queue: only.MaxQueue = 64,
    max_connections: only.MaxConnections = 256,
    max_completions: only.MaxCompletions = 8,
    max_body: only.MaxBody = 2 << 20,
    request_timeout: only.RequestTimeout = 600.0,
    queue_timeout: only.QueueTimeout = 60.0,
    body_timeout: only.BodyTimeout = 30.0,
    write_timeout: only.WriteTimeout = 30.0,
    ping_interval: only.PingInterval = 15.0,
    shutdown_timeout: only.ShutdownTimeout = 30.0,
    ui: only.Ui = True,
    docs: only.Docs = True,
    access_log: only.AccessLog = True,
    log_level: only.LogLevel = "info",
    dtype: Dtype = "auto",
    device: Device = "auto",
    revision: Revision = None,
    load_mode: LoadMode = "mmap",
    activations: Activations = None,
    head: Head = "auto",
    kv_cache_dtype: KvCacheDtype = "auto",
    draft_model: DraftModel = None,
    speculation: Speculation = "prompt-lookup",
    threads: Threads = None,
    weight_cache: WeightCache = True,
    force: Force = False,
) -> None:
    """Serve a model: OpenAI's API at /v1, a web page at /.

    Only this machine is served unless told otherwise. Ctrl-C or SIGTERM lets open answers end; a second one ends them.
    """
    require("server", "serve", "fastapi", "uvicorn", "prometheus_client")
    values = dict(locals())  # every option by its name
    access = _access(values)
    limits = _limits(values)
    load, names = _loading(values), [*(served_model_name or ()), *own_names(model)]
    _readable(ssl_certfile, ssl_keyfile)
    if model is not None and not looks_like_hub_id(model):
        resolve(model, revision=revision)  # so that a wrong path is told at once
    from qwartet.server.listener import bind, bind_unix

    with bind(host, port, write_timeout) if uds is None else bind_unix(uds) as listener:
        print(one_line(f"{_url(listener, uds, ssl_certfile)}  (loading {names[-1]})"), file=sys.stderr)
        # After everything that can be wrong with the settings: these take seconds to import.
        from qwartet.server.app import make_app
        from qwartet.server.run import serve as serve_until_stopped
        from qwartet.server.service import Service

        set_threads(threads)
        _start_log(log_level)
        service = Service(limits)
        app = make_app(
            service, access, allowed_origins=allowed_origins or (), root_path=root_path, has_page=ui, has_docs=docs,
            has_access_log=access_log,
        )  # fmt: skip
        code = serve_until_stopped(app, service, listener, load, names, ssl_certfile, ssl_keyfile)
    if uds is not None:
        uds.unlink(missing_ok=True)
    if code:
        raise typer.Exit(code)


def _loading(values: dict[str, Any]) -> Callable[[], LLM]:
    """What loads the model."""
    taken = (
        "dtype", "device", "load_mode", "force", "activations", "head", "kv_cache_dtype", "draft_model", "speculation",
        "weight_cache", "revision", "max_num_seqs", "max_num_batched_tokens", "max_model_len",
    )  # fmt: skip
    settings = {name: values[name] for name in taken} | {"max_stall_s": values["max_stall"] or None}
    return partial(load_llm, values["model"], **settings)


def _limits(values: dict[str, Any]) -> Limits:
    from qwartet.server.limits import Limits

    seconds = ("request_timeout", "queue_timeout", "body_timeout", "write_timeout", "ping_interval", "shutdown_timeout")
    counts = ("max_queue", "max_connections", "max_completions")
    return Limits(
        max_body_bytes=values["max_body"],
        **{name: values[name] for name in counts},
        **{f"{name}_s": values[name] for name in seconds},
    )


def _access(values: dict[str, Any]) -> Access:
    """Who is let in; SettingError where others could come without a key."""
    from qwartet.server.access import Access

    host, is_unix = values["host"], values["uds"] is not None
    is_local = is_unix or host in ("127.0.0.1", "::1", "localhost")
    access = Access(
        api_keys=_keys(values["api_key"] or [], values["api_key_file"]),
        allowed_hosts=_hosts(values["allowed_hosts"] or [], is_guarded=is_local and not is_unix),
    )
    if not (is_local or access.api_keys or values["insecure"]):
        raise SettingError(f"{host} can be reached by others; set --api-key, or --insecure to serve them without one")
    return access


def _hosts(given: list[str], *, is_guarded: bool) -> list[str] | None:
    """Names that are answered. A foreign page reaches a server of this machine, which trusts its users, by a name of
    its own that leads here; a Unix socket it cannot reach."""
    from qwartet.server.access import LOOPBACK_HOSTS

    return None if "*" in given or not (is_guarded or given) else [*LOOPBACK_HOSTS, *given]


def _keys(given: list[str], file: Path | None) -> list[str]:
    keys = list(given)
    if file is not None:
        _readable(file)
        keys += [line.strip() for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
        if not keys:
            raise SettingError(f"{file} holds no key; write one a line")
        if file.stat().st_mode & stat.S_IROTH:
            print(one_line(f"warning: {file} can be read by everybody; chmod o-r it"), file=sys.stderr)
    for key in keys:
        if len(key) < MIN_KEY_CHARS or not (key.isascii() and key.isprintable()) or " " in key:
            message = f"an API key is not {MIN_KEY_CHARS} or more printable ASCII characters without spaces"
            raise SettingError(f"{message}; `openssl rand -hex 24` makes one")
    return keys


def _readable(*files: Path | None) -> None:
    """SettingError for a file that cannot be read."""
    for file in files:
        try:
            if file is not None:
                file.open("rb").close()
        except OSError as error:
            raise SettingError(
                f"{file} cannot be read ({error.strerror}); check the path and its permissions"
            ) from None


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
