"""The options of `qwartet serve` that no other verb has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000

Model = Annotated[
    str | None, typer.Argument(help="Directory of a checkpoint, or hub id.", show_default="the bundled model")
]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all, and then a key is wanted.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")]
UnixSocket = Annotated[Path | None, typer.Option(help="Listen on this Unix socket instead.")]
ServedModelName = Annotated[
    list[str] | None, typer.Option(help="What requests may call the model, before its own name; repeatable.")
]
ApiKey = Annotated[
    list[str] | None, typer.Option(envvar="QWARTET_API_KEY", help="A key that requests have to send; repeatable.")
]
ApiKeyFile = Annotated[Path | None, typer.Option(help="A file of such keys, one a line.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Serve other machines without a key.")]
AllowedHosts = Annotated[
    list[str] | None, typer.Option(help="More names by which the server may be called; * is any; repeatable.")
]
AllowedOrigins = Annotated[list[str] | None, typer.Option(help="An origin whose pages may use the API; repeatable.")]
RootPath = Annotated[str, typer.Option(help="Path under which a proxy shows the server.")]
SslCertfile = Annotated[Path | None, typer.Option(help="Certificate, for https.")]
SslKeyfile = Annotated[Path | None, typer.Option(help="The certificate's key.")]
MaxNumSeqs = Annotated[int, typer.Option(help="Completions that are made at once.")]
MaxNumBatchedTokens = Annotated[int | None, typer.Option(help="Tokens of a step; 512 on a CPU if left out.")]
MaxStall = Annotated[
    float, typer.Option(min=0, help="Seconds that running answers wait for a chunk of a prompt; 0: for a whole step.")
]
MaxQueue = Annotated[int, typer.Option(help="Completions that may wait; one more is answered 429.")]
MaxConnections = Annotated[int, typer.Option(help="Requests that are answered at once.")]
MaxCompletions = Annotated[int, typer.Option(help="Completions of one request.")]
MaxBody = Annotated[int, typer.Option(help="Bytes of a request.")]
RequestTimeout = Annotated[float, typer.Option(help="Seconds for an answer as a whole.")]
QueueTimeout = Annotated[float, typer.Option(help="Seconds until an answer is begun.")]
BodyTimeout = Annotated[float, typer.Option(help="Seconds in which a request has to be here.")]
WriteTimeout = Annotated[float, typer.Option(help="Seconds in which a client has to read what was sent.")]
PingInterval = Annotated[float, typer.Option(help="Seconds between signs of life in a silent stream.")]
ShutdownTimeout = Annotated[float, typer.Option(help="Seconds for open answers when told to stop.")]
Ui = Annotated[bool, typer.Option(help="The web page at /.")]
Docs = Annotated[bool, typer.Option(help="The API's description at /docs and /openapi.json.")]
AccessLog = Annotated[bool, typer.Option(help="A line for each request, without what it says.")]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged, on stderr.")]
