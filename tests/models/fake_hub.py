"""A hub on loopback: the four requests that huggingface_hub makes to download a model, and the ways they can fail."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Repositories (id -> file -> content) and what was asked of them."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)  # files whose first download breaks off in the middle
    dead: set[str] = field(default_factory=set)  # files that answer 500
    downloads: list[tuple[str, str | None]] = field(default_factory=list)  # (file, Range header)
    endpoint: str = ""

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        """The hub while it answers at `endpoint`."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/(.+)/(?:revision|tree)/([^/]+)", path):
            self._describe(match[1], match[2], is_tree="/tree/" in path)
        elif match := re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", path):
            self._serve(match[1], match[2], with_body)
        else:
            self._refuse(404, "EntryNotFound")

    def _describe(self, repository: str, revision: str, is_tree: bool) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif is_tree:
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in files.items()
            ]
            self._send(200, json.dumps(listing).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            content = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
            self._send(200, json.dumps(content).encode())

    def _serve(self, repository: str, name: str, with_body: bool) -> None:
        content = self.hub.repositories.get(repository, {}).get(name)
        if content is None:
            self._refuse(404, "EntryNotFound")
        elif repository in self.hub.gated:
            self._refuse(403, "GatedRepo")
        elif not with_body:
            self._send(200, b"", {"Content-Length": str(len(content)), **_file_headers(content)})
        else:
            self._download(name, content)

    def _download(self, name: str, content: bytes) -> None:
        wanted = self.headers.get("Range")
        self.hub.downloads.append((name, wanted))
        if name in self.hub.dead:
            self._refuse(500, "")
            return
        if name in self.hub.cut:
            self.hub.cut.remove(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        headers = _file_headers(content)
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if wanted else 200, content[start:], headers)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code} if code else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _file_headers(content: bytes) -> dict[str, str]:
    return {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT}
