"""Two hubs on loopback: what Hugging Face and ModelScope answer when a model is fetched, and the ways they can fail.

Hugging Face's also has datasets: repositories whose names begin with "datasets/".

Written from the documentation of the two interfaces and from what their libraries expect of them; the real hubs were
never asked.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

NAME = "Somebody/Tiny-Chat"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".tiktoken", ".parquet")  # kept as large files, which Hugging Face knows the SHA-256 of
CONFIG = json.dumps({"model_type": "qwen", "hidden_size": 4096, "num_hidden_layers": 32, "bf16": True}).encode()
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
TINY_MODEL = {
    "config.json": CONFIG,
    "generation_config.json": b'{"chat_format": "chatml"}',
    "qwen.tiktoken": b"IQ== 0\n",
    "model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode(),
    SHARDS[0]: bytes(range(256)) * 400,
    SHARDS[1]: bytes(range(255, -1, -1)) * 300,
    "LICENSE": b"Tongyi Qianwen",
}
UNWANTED = {
    "modeling_qwen.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80\x04.",
    "README.md": b"# Tiny",
    "onnx/model.safetensors": b"another format",
}


@dataclass
class FakeHub:
    """Repositories (id -> file -> content), the faults of their files, and what was asked of them.

    A fault is taken by one request for its file, or for the listing under the name "listing":
    "503", "401" and other numbers (that status), "cut" (half of the bytes, then the connection ends), "flip" (one bit
    is wrong), "long" (Content-Length says more than there is), "short" (less), "extra" (more bytes than the listing
    says), "loop" (a redirect to itself), "gated", "hang" (half, and then nothing until `released`), "endless" (a body
    without an end; also "endless 500", "endless 302"), "gzip", "br" (compressed, unasked), "gzip part" (a range of the
    compressed bytes), "other part" (a range that was not asked for), "whole" (all, whatever range was asked for),
    "304". "json" as a fault of the listing: `answer`.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    commits: dict[str, str] = field(default_factory=dict)  # of repositories with another one
    faults: dict[str, list[str]] = field(default_factory=dict)
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)  # file -> what its entry says wrongly
    tokens: set[str] = field(default_factory=set)  # what requests for files carried
    downloads: list[tuple[str, str | None]] = field(default_factory=list)  # (file, Range header)
    num_requests: int = 0
    paths: list[str] = field(default_factory=list)  # that were asked for
    num_endless_bytes: int = 0  # that were sent of bodies without an end
    answer: bytes = b""
    part: str = ""  # the Content-Range of an "unasked part"
    codings: set[str] = field(default_factory=set)  # that were asked for
    headers: dict[str, str] = field(default_factory=dict)  # of every file
    hanging: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)
    endpoint: str = ""

    @property
    def host(self) -> str:
        """As errors name it."""
        return self.endpoint.removeprefix("http://")

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        """The hub while it answers at `endpoint`."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            self.released.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def become_the_hub(self, monkeypatch: pytest.MonkeyPatch, workplace: Path) -> None:
        """This process asks this hub, keeps what it gets in `workplace`, and waits for nothing."""
        from huggingface_hub import close_session, constants

        close_session()  # one that was opened before does not know that loopback needs no proxy
        for variable in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(variable, "127.0.0.1")
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(workplace / "hf"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(workplace / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", self.endpoint)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(workplace / "modelscope"))
        monkeypatch.setenv("QWARTET_CACHE", str(workplace / "qwartet"))
        monkeypatch.setattr("qwartet.hub.fetch.PAUSES_S", (0.0,) * 5)

    def commit_of(self, repository: str) -> str:
        return self.commits.get(repository, self.commit)

    def fault(self, name: str) -> str | None:
        pending = self.faults.get(name)
        return pending.pop(0) if pending else None


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    coding = ""  # of what is sent next

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.num_requests += 1
        self.hub.paths.append(self.path)
        self.coding = ""
        self.hub.codings.add(self.headers.get("Accept-Encoding") or "")
        url = urlsplit(self.path)
        path, query = unquote(url.path), {key: values[0] for key, values in parse_qs(url.query).items()}
        if match := re.fullmatch(r"/api/(?:models/|(?=datasets/))(.+)/revision/([^/]+)", path):
            self._list(match[1], match[2], self._hugging_face)
        elif match := re.fullmatch(r"/api/v1/models/(.+)/repo/files", path):
            self._list(match[1], query.get("Revision", "master"), self._modelscope)
        elif match := re.fullmatch(r"/api/v1/models/(.+)/repo", path):
            self._serve(match[1], query["Revision"], query["FilePath"])
        elif match := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self._serve(match[1], match[2], match[3])
        else:
            self._refuse(404, "EntryNotFound")

    def do_HEAD(self) -> None:
        """What is known of a dataset's file, which the library asks for before the file."""
        self.hub.paths.append(self.path)
        match = re.fullmatch(r"/(datasets/.+)/resolve/([^/]+)/(.+)", unquote(urlsplit(self.path).path))
        content = self.hub.repositories.get(match[1], {}).get(match[3]) if match else None
        if match is None or content is None:
            self._refuse(404, "EntryNotFound")
            return
        self.send_response(200)
        known = {"ETag": f'"{sha256(content)}"', "X-Repo-Commit": self.hub.commit_of(match[1])}
        for name, value in {"Content-Length": str(len(content)), **known}.items():
            self.send_header(name, value)
        self.end_headers()

    def _list(self, repository: str, revision: str, describe: Any) -> None:
        fault, files = self.hub.fault("listing"), self.hub.repositories.get(repository)
        self.coding = {"gzip": "gzip", "br": "br", "json gzip": "gzip"}.get(fault or "", "")
        if fault is not None and fault.startswith("endless"):
            self._send_without_end(int(fault.removeprefix("endless") or 200))
        elif fault in ("json", "json gzip"):
            self._send(200, self.hub.answer)
        elif fault == "loop":
            self._send(302, b"", {"Location": self.path})
        elif fault == "gated":
            self._refuse(403, "GatedRepo")
        elif fault is not None and fault.isdecimal():
            self._refuse(int(fault), "")
        elif files is None:
            self._refuse(404, "RepoNotFound")
        else:
            describe(repository, revision, files)

    def _hugging_face(self, repository: str, revision: str, files: dict[str, bytes]) -> None:
        commit = self.hub.commit_of(repository)
        if revision not in ("main", "v1", commit):
            self._refuse(404, "RevisionNotFound")
            return
        siblings = []
        for name, content in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(entry | self.hub.listed.get(name, {}))
        content = {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": []}
        self._send(200, json.dumps(content).encode())

    def _modelscope(self, repository: str, revision: str, files: dict[str, bytes]) -> None:
        entries: list[dict[str, Any]] | None = None
        if revision in ("master", "v1", self.hub.commit):
            entries = [{"Name": "onnx", "Path": "onnx", "Type": "tree", "Size": 0}]
            for name, content in files.items():
                entry = {"Name": name.rpartition("/")[2], "Path": name, "Type": "blob", "Size": len(content)}
                entry |= {"Sha256": sha256(content), "IsLFS": name.endswith(LARGE), "Revision": self.hub.commit}
                entries.append(entry | self.hub.listed.get(name, {}))
        committer = {"Id": "", "ShortId": self.hub.commit[:8]}
        data = {"Files": entries, "IsVisual": 0, "LatestCommitter": committer if entries else None}
        self._send(200, json.dumps({"Code": 200, "Data": data, "Message": "success", "Success": True}).encode())

    def _serve(self, repository: str, revision: str, name: str) -> None:
        content = self.hub.repositories.get(repository, {}).get(name)
        wanted = self.headers.get("Range")
        self.hub.downloads.append((name, wanted))
        self.hub.tokens.add(self.headers.get("Authorization") or "")
        fault = self.hub.fault(name)
        if content is None:
            self._refuse(404, "EntryNotFound" if repository in self.hub.repositories else "RepoNotFound")
        elif not re.fullmatch(r"main|master|v1|[0-9a-f]{40}", revision):
            self._refuse(404, "RevisionNotFound")
        elif fault == "gated":
            self._refuse(403, "GatedRepo")
        elif fault == "loop":
            self._send(302, b"", {"Location": self.path})
        elif fault is not None and fault.isdecimal():
            self._refuse(int(fault), "")
        elif fault is not None and fault.startswith("endless"):
            self._send_without_end(int(fault.removeprefix("endless") or 200))
        elif fault in ("gzip", "br"):
            self.coding = fault
            self._send(200, content)
        elif fault == "unasked part":
            self._send(206, content[:10], {"Content-Range": self.hub.part})
        else:
            self._download(content, int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0, fault)

    def _download(self, content: bytes, start: int, fault: str | None) -> None:
        if start >= len(content) > 0:
            self._refuse(416, "")
            return
        placed = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault == "whole":
            start = 0
        if fault == "gzip part":
            content = gzip.compress(content)
        if fault == "other part":
            placed, start = f"bytes {start + 7}-{len(content) - 1}/{len(content)}", start + 7
        if fault == "flip":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault == "extra":
            content += b"more"
        body = content[start:]
        length = len(body) + {"long": 10, "short": -10}.get(fault or "", 0)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(length))
        if start:
            self.send_header("Content-Range", placed)
        if fault == "gzip part":
            self.send_header("Content-Encoding", "gzip")
        for name, value in self.hub.headers.items():
            self.send_header(name, value)
        self.end_headers()
        half = body[: len(body) // 2]
        self.wfile.write(half if fault in ("cut", "hang") else body[:length])
        if fault == "hang":
            self.wfile.flush()
            self.hub.hanging.set()
            self.hub.released.wait(60)
        self.close_connection = fault in ("cut", "hang", "long")

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code} if code else {})

    def _send_without_end(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status // 100 == 3:
            self.send_header("Location", self.path)
        self.end_headers()
        self.close_connection = True
        piece = b'{"error": "' + b"a" * 2**16
        with suppress(OSError):  # the other side has had enough
            while not self.hub.released.is_set():
                self.wfile.write(piece)
                self.hub.num_endless_bytes += len(piece)
                piece = b"a" * 2**16

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.coding:
            body = gzip.compress(body) if self.coding == "gzip" else b"\x1b\x03" + body
            headers = {**(headers or {}), "Content-Encoding": self.coding}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    """What git names a small file by."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
