"""Access control: keys, routes, host names, origins, paths (SEC-12 to SEC-15, SEC-21)."""

from __future__ import annotations

import ast
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwartet import LLM
from qwartet.cli.loading import own_names
from qwartet.cli.main import run
from qwartet.server import app as app_module
from qwartet.server.access import LOOPBACK_HOSTS, Access
from tests.golden_data import REPOSITORY
from tests.server.attack import CHAT, COMPLETION, Answer, post, request, send
from tests.server.running_server import HELLO, RunningServer

KEYS = ["first-key-0123456789", "second-key-012345678"]
BODY = {"messages": HELLO, "max_tokens": 1}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="module")
def locked(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm, access=Access(api_keys=KEYS)) as running:
        yield running


@pytest.fixture(scope="module")
def local(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm, access=Access(allowed_hosts=LOOPBACK_HOSTS)) as running:
        yield running


def test_sec_12_no_secret_is_compared_with_an_operator() -> None:
    """`==` stops at the first differing byte, so its duration reveals how much of a guess is right."""
    compared = []
    for path in (REPOSITORY / "qwartet" / "server").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                if names & {"sent", "known", "_key_hashes", "api_keys", "api_key", "authorization"}:
                    compared.append(f"{path.name}:{node.lineno}")
    assert compared == []


@pytest.mark.parametrize("sent", [KEYS[0], KEYS[1], "another-key-01234567"])
def test_sec_12_whatever_is_sent_all_keys_are_compared_in_constant_time(
    locked: RunningServer, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare_digest = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    answer = send(locked, request("GET", "/version", f"Authorization: Bearer {sent}"))
    assert answer.status == (200 if sent in KEYS else 401)
    assert len(compared) == len(KEYS)
    assert {len(side) for pair in compared for side in pair} == {32}, "hashes: their length says nothing of a key's"


WRONG = {
    "none": [],
    "empty": ["Authorization:"],
    "no key": ["Authorization: Bearer"],
    "blanks": ["Authorization: Bearer   "],
    "no scheme": [f"Authorization: {KEYS[0]}"],
    "another scheme": [f"Authorization: Basic {KEYS[0]}"],
    "a part": [f"Authorization: Bearer {KEYS[0][:-1]}"],
    "more": [f"Authorization: Bearer {KEYS[0]}x"],
    "another case": [f"Authorization: Bearer {KEYS[0].upper()}"],
    "two at once": [f"Authorization: Bearer {KEYS[0]}, {KEYS[1]}"],
    "no ASCII": ["Authorization: Bearer sch\xfcssel"],
    "no Latin": ["Authorization: Bearer 密钥".encode()],
    "no UTF-8": [b"Authorization: Bearer \xff\xfe\xed\xa0\x80"],
    "long": ["Authorization: Bearer " + "k" * 60_000],
    "another header": [f"X-Api-Key: {KEYS[0]}"],
    "a cookie": [f"Cookie: Authorization=Bearer {KEYS[0]}"],
}


@pytest.mark.parametrize("lines", WRONG.values(), ids=WRONG)
def test_sec_12_any_other_key_is_refused_and_not_repeated(locked: RunningServer, lines: list[str | bytes]) -> None:
    for data in (request("GET", "/version", *lines), post(CHAT, BODY, *lines)):
        answer = send(locked, data)
        assert answer.status == 401 and answer.error["type"] == "authentication_error"
        assert ("www-authenticate", "Bearer") in answer.headers
        assert KEYS[0][:8].encode() not in answer.raw
    in_query = send(locked, request("GET", f"/version?api_key={KEYS[0]}", *lines))
    assert in_query.status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_sec_12_each_key_opens(locked: RunningServer, scheme: str) -> None:
    for key in KEYS:
        assert send(locked, request("GET", "/version", f"Authorization: {scheme} {key}")).status == 200


def test_sec_12_a_key_of_other_letters_can_be_used(llm: LLM) -> None:
    with RunningServer(llm, access=Access(api_keys=["schlüssel-密钥"])) as server:
        assert send(server, request("GET", "/version", "Authorization: Bearer schlüssel-密钥".encode())).status == 200
        assert send(server, request("GET", "/version", "Authorization: Bearer schl?ssel-??")).status == 401


def routes(server: RunningServer) -> list[str]:
    paths = [str(getattr(route, "path", "")) for route in server.app.routes]
    assert len(paths) > 12
    return [path.replace("{name:path}", "demo") for path in paths]


PUBLIC = {"/", "/favicon.ico", "/health", "/health/live", "/health/ready", "/static"}
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"]


def tricks(path: str) -> list[str]:
    """Other spellings of a path, or a path hidden behind a public one."""
    return [
        path, path.upper(), f"/{path}", f"/{path}/", f"{path}/", f"{path}?x=/health", f"{path}#/health",
        f"{path};/health",
        f"/.{path}", f"/%2e{path}", f"/health/..{path}", f"/health/%2e%2e{path}", f"/health%2f..{path}",
        f"/static/..{path}", f"/static/%2e%2e{path}", f"/static/%2e%2e%2f{path[1:]}", f"/static/..%5c{path[1:]}",
        f"/static{path}", f"/static/{path}", path.replace("/", "%2f"), f"/%2f{path[1:]}", path.replace("/", "//"),
        f"{path}%00", f"{path}%20", f"{path}%0a", f"http://localhost{path}", f"http://localhost/health/..{path}",
        f"//localhost{path}", path[1:], f"*{path}", f"/v1/%2e%2e{path}", f"/health?{path}", f"/?{path}",
    ]  # fmt: skip


def test_sec_13_every_route_but_the_public_ones_wants_a_key_in_every_method(locked: RunningServer) -> None:
    closed = [path for path in routes(locked) if path not in PUBLIC]
    assert {CHAT, COMPLETION, "/tokenize", "/detokenize", "/metrics", "/version", "/docs", "/openapi.json"} <= set(
        closed
    )
    for path in closed:
        for method in METHODS:
            assert send(locked, request(method, path)).status == 401, f"{method} {path}"


@pytest.mark.parametrize("path", ["/v1/models", "/version", "/metrics", "/openapi.json", CHAT])
def test_sec_13_no_way_to_write_a_path_leads_past_the_key(locked: RunningServer, path: str) -> None:
    open_answers = {send(locked, request("GET", one)).body for one in ("/", "/health", "/health/live")}
    for trick in tricks(path):
        for data in (request("GET", trick), request("POST", trick), request("GET", trick, host="x/health?")):
            answer = send(locked, data)
            if answer.status == 200:
                assert answer.body in open_answers, trick
            else:
                assert answer.status in (401, 404, 405), f"{trick}: {answer.status}"


@pytest.mark.parametrize("end", ["health", "", "favicon.ico", "static/x", "health/live"])
def test_sec_13_only_a_whole_path_is_public(locked: RunningServer, end: str) -> None:
    """/v1/models/NAME accepts any name, even one that ends like a public path."""
    assert send(locked, request("GET", f"/v1/models/{end}")).status == 401


def test_sec_13_names_that_proxies_add_are_not_believed(locked: RunningServer) -> None:
    lines = ["X-Forwarded-For: 127.0.0.1", "X-Original-URL: /health", "X-Rewrite-URL: /health", "X-Forwarded-Prefix: /"]
    assert send(locked, request("GET", "/v1/models", *lines)).status == 401
    assert (
        send(locked, request("GET", "/version", "X-HTTP-Method-Override: GET", "Forwarded: for=localhost")).status
        == 401
    )


@pytest.mark.parametrize("root_path", ["/base", "/static", "/health/x"])
def test_sec_13_a_root_path_opens_nothing(llm: LLM, root_path: str) -> None:
    with RunningServer(llm, access=Access(api_keys=KEYS), root_path=root_path) as server:
        for path in ("/v1/models", "/version", f"/..{root_path}/version"):
            for target in (path, f"{root_path}{path}", f"{root_path}{root_path}{path}", f"{root_path}/static/..{path}"):
                assert send(server, request("GET", target)).status in (401, 404), target
        assert send(server, request("GET", f"{root_path}/health")).status == 200
        assert send(server, request("GET", "/health")).status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/version/", 200), ("/v1/models/", 200), ("/health/", 200), ("/version//", 404), ("/static", 404),
        ("//evil.example/version/", 404),
    ],
)  # fmt: skip
def test_sec_13_no_redirect_leads_to_what_a_host_header_says(locked: RunningServer, path: str, status: int) -> None:
    key = f"Authorization: Bearer {KEYS[0]}"
    answer = send(locked, request("GET", path, key, host="evil.example"))
    assert answer.status == status and "location" not in dict(answer.headers)


@pytest.mark.parametrize("path", ["/version/", "/v1/models/", "/metrics/", "/v1/models/health/", "/docs/", f"{CHAT}/"])
def test_sec_13_a_trailing_slash_opens_nothing(locked: RunningServer, path: str) -> None:
    for method in METHODS:
        assert send(locked, request(method, path)).status == 401


HOSTS = {
    "evil.example": 403, "evil.example:8000": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403,
    "evil@localhost": 403, "localhost@evil": 403, "localhost/": 403, "localhost#x": 403, "x/localhost?": 403,
    "localhost,evil": 403, "0.0.0.0": 403, "127.1": 403, "": 403, "localhost.": 403, "[::1].evil": 403, "::1": 403,
    "localhost:evil": 403, "localhost": 200, "LOCALHOST:1234": 200, "127.0.0.1:8000": 200, "[::1]:8000": 200,
    "[::1]": 200,
}  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS.items())
def test_sec_14_a_local_server_answers_to_its_own_names_alone(local: RunningServer, host: str, status: int) -> None:
    """DNS rebinding: a foreign page reaches this machine under the foreign site's own name."""
    for path in ("/version", "/health", "/static/docs.css"):
        assert send(local, request("GET", path, host=host)).status == status
    assert send(local, post(CHAT, BODY).replace(b"Host: localhost", f"Host: {host}".encode())).status == status


def cors(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers if name.startswith("access-control") or name == "set-cookie"}


ORIGINS = ["https://evil.example", "null", "http://localhost:3000", "file://", "https://localhost.evil.example"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_sec_14_no_page_of_another_origin_may_read_or_ask(local: RunningServer, origin: str) -> None:
    preflight = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type, authorization"]
    for data in (
        request("OPTIONS", CHAT, f"Origin: {origin}", *preflight, "Access-Control-Request-Private-Network: true"),
        request("GET", "/v1/models", f"Origin: {origin}"),
        post(CHAT, BODY, f"Origin: {origin}"),
    ):
        answer = send(local, data)
        assert cors(answer) == {}
        assert ("cross-origin-resource-policy", "same-origin") in answer.headers
    assert send(local, request("OPTIONS", CHAT, f"Origin: {origin}", *preflight)).status == 405


SIMPLE = [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
          "application/jsonp", "text/plain, application/json", "text/plain; application/json"]  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/tokenize", "/detokenize"])
@pytest.mark.parametrize("content_type", SIMPLE)
def test_sec_14_what_a_page_may_send_unasked_is_not_read(
    local: RunningServer, path: str, content_type: str | None
) -> None:
    answer = send(local, post(path, BODY, content_type=content_type))
    assert answer.status == 415 and answer.error["code"] == "unsupported_media_type"
    two = post(path, BODY, "Content-Type: application/json", content_type="text/plain")
    assert send(local, two).status == 415


def test_sec_14_an_origin_that_is_allowed_may_read_without_credentials(llm: LLM) -> None:
    with RunningServer(llm, allowed_origins=["https://app.example"]) as server:
        allowed = send(server, request("GET", "/v1/models", "Origin: https://app.example"))
        assert cors(allowed) == {
            "access-control-allow-origin": "https://app.example",
            "access-control-expose-headers": "x-request-id, retry-after, x-qwartet-notes",
        }
        assert cors(send(server, request("GET", "/v1/models", "Origin: https://evil.example"))) == {}
        asked = ["Origin: https://evil.example", "Access-Control-Request-Method: POST"]
        assert "access-control-allow-origin" not in cors(send(server, request("OPTIONS", CHAT, *asked)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "127.0.0.2"])
def test_sec_14_others_are_not_served_without_a_key_by_accident(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--host", host, "--port", "0"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "set --api-key, or --insecure" in told


OUTSIDE = [
    "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "..%5csecret.txt", "..\\secret.txt",
    "a/../../secret.txt", "./../secret.txt", "....//secret.txt", "..;/secret.txt", "%252e%252e/secret.txt",
    "../static-twin/secret.txt", "link.txt", "linked/secret.txt", "/@/secret.txt", "%2f@/secret.txt", "//@/secret.txt",
    "page.css%00.txt", "%00", "C:\\secret.txt", "C:/secret.txt", "..%c0%afsecret.txt", "%uff0e./secret.txt",
    "．．/secret.txt", "..", ".", "", "page.css/..", "~/secret.txt", "folder", "folder/",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    """A server with secrets around its static folder, and links that lead to them."""
    top = tmp_path_factory.mktemp("served")
    static = top / "static"
    for folder in (static, static / "folder", top / "static-twin"):
        folder.mkdir()
    for path in (top / "secret.txt", top / "static-twin" / "secret.txt"):
        path.write_text("secret")
    (static / "page.css").write_text("page")
    (static / "link.txt").symlink_to(top / "secret.txt")
    (static / "linked").symlink_to(top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module, "STATIC", static)
        with RunningServer(llm) as running:
            yield running, top


@pytest.mark.parametrize("path", OUTSIDE)
def test_sec_15_nothing_but_the_pages_own_files_is_given_out(files: tuple[RunningServer, Path], path: str) -> None:
    server, top = files
    assert send(server, request("GET", "/static/page.css")).body == b"page"
    for prefix in ("/static/", "/static//", "/static/folder/../"):
        target = prefix.encode() + path.replace("@", str(top)).encode("utf-8")
        answer = send(server, request("GET", target))
        assert answer.status in (400, 404) and b"secret" not in answer.body.replace(path.encode(), b"")


MODELS = ["../../etc/passwd", "/etc/passwd", "..%2f..%2fetc", "demo/../..", "demo\0", "C:\\demo", "file:///etc/passwd",
          "demo ", "DEMO", "", "https://hub.example/model", "a" * 100_000]  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=range(len(MODELS)))
def test_sec_15_a_models_name_is_compared_and_never_a_path(local: RunningServer, model: str) -> None:
    for path, body in (
        (CHAT, BODY),
        (COMPLETION, {"prompt": "x", "max_tokens": 1}),
        ("/tokenize", {"prompt": "x"}),
        ("/detokenize", {"tokens": [1]}),
    ):
        answer = send(local, post(path, {**body, "model": model}))
        assert answer.status == 404 and answer.error["code"] == "model_not_found"
        assert answer.error["param"] == "model" and "available: demo" in answer.error["message"]


def test_sec_15_no_field_of_any_request_is_a_path(local: RunningServer) -> None:
    """Requests cannot name an adapter, file, folder or URL: no field accepts one."""
    schemas: dict[str, Any] = local.app.openapi()["components"]["schemas"]
    fields = {name for schema in schemas.values() for name in schema.get("properties", {})}
    assert not {
        name for name in fields if any(word in name for word in ("path", "file", "dir", "url", "adapter", "lora"))
    }


def test_sec_15_the_name_of_a_model_tells_no_path(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    assert own_names(str(tmp_path / "my-model")) == own_names(f"{tmp_path}/my-model/../my-model/") == ["my-model"]
    assert own_names(None) == ["qwartet-demo"] or "/" not in own_names(None)[0]


def test_sec_21_every_answer_forbids_foreign_scripts(locked: RunningServer, files: tuple[RunningServer, Path]) -> None:
    key = f"Authorization: Bearer {KEYS[0]}"
    answers = {
        "page": send(locked, request("GET", "/static/docs.css")),
        "docs": send(locked, request("GET", "/docs", key)),
        "no key": send(locked, request("GET", "/docs")),
        "no such path": send(locked, request("GET", "/x", key)),
        "health": send(locked, request("GET", "/health")),
        "chat": send(locked, post(CHAT, BODY, key)),
        "stream": send(locked, post(CHAT, {**BODY, "stream": True}, key)),
        "a wrong body": send(locked, post(CHAT, {}, key)),
    }
    for what, answer in answers.items():
        headers = dict(answer.headers)
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'" and policy["frame-ancestors"] == policy["base-uri"] == "'none'", what
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    page = answers["docs"].body.decode()
    assert "<script" not in page and "style=" not in page and "http" not in page.replace("no HTTP", "")
