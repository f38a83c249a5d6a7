"""The ASGI application: its routes, and the middleware around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from qwartet import __version__
from qwartet.openai_api.answer_objects import (
    ChatCompletion,
    Completion,
    DetokenizeResponse,
    ErrorResponse,
    ModelCard,
    ModelList,
    TokenizeResponse,
    TokenizerInfo,
    Version,
)
from qwartet.openai_api.endpoints import CHAT_PATH, COMPLETION_PATH, RESPONSES_PATH, Endpoints
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.protocol import ChatCompletionRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from qwartet.openai_api.responses_answer import DeletedResponse, ResponseObject
from qwartet.openai_api.responses_request import ResponsesRequest
from qwartet.openai_api.token_ids import detokenize, tokenize, tokenizer_info
from qwartet.server import docs_page, metrics
from qwartet.server.access import Access
from qwartet.server.answering import Answering
from qwartet.server.cors import Cors
from qwartet.server.guard import Guard
from qwartet.server.http_body import read_json_body
from qwartet.server.json_answer import JsonAnswer, error_answer
from qwartet.server.service import Service

STATIC = Path(__file__).parent / "static"
REVALIDATE = "no-cache"  # the browser asks again each time, so it never mixes files of two versions
_DESCRIPTION = (
    "OpenAI-compatible API for one first-generation Qwen model. Unsupported fields are rejected with an error that "
    "names them; inside messages and tools they are ignored. null means that a field is not set. Every failure "
    "returns an error object."
)

_EVENT = {
    "type": "object",
    "description": "A server-sent event: data is a JSON chunk, an error object, or [DONE], which always comes last. "
    "/v1/responses sends OpenAI's events, from response.created to response.completed, and no [DONE].",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}


def make_app(
    service: Service,
    access: Access,
    *,
    allowed_origins: Sequence[str] = (),
    root_path: str = "",
    has_page: bool = True,
    has_docs: bool = True,
    has_access_log: bool = True,
) -> FastAPI:
    """The ASGI application over a service; `has_page`: the web page at /, `has_docs`: /docs and /openapi.json."""
    app = FastAPI(
        title="Qwartet", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None,
        openapi_url="/openapi.json" if has_docs else None,
        redirect_slashes=False,  # a redirect would repeat the Host header
    )  # fmt: skip
    _add_model_routes(app, service)
    _add_state_routes(app, service)
    # Browsers request it unasked; the page has its own icon.
    app.add_route("/favicon.ico", lambda request: Response(status_code=204), include_in_schema=False)
    if has_docs:
        _add_page(app, "/docs", lambda: HTMLResponse(docs_page.render(app.openapi())))
        app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    if has_page:
        _add_page(app, "/", lambda: FileResponse(STATIC / "index.html", headers={"cache-control": REVALIDATE}))
        app.mount("/static", _Static(directory=STATIC), name="static")
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ApiError, _api_error)
    app.add_middleware(Guard, service=service, access=access, root_path=root_path, has_access_log=has_access_log)
    if allowed_origins:
        app.add_middleware(Cors, allowed_origins=allowed_origins)
    return app


def _add_page(app: FastAPI, path: str, answer: Callable[[], Response]) -> None:
    """An HTML page. Its links are relative and would fail under a URL with a trailing slash, so that is redirected."""

    async def route(request: Request) -> Response:
        requested, found = request.scope["raw_path"], request.scope["path"]
        if requested.endswith(b"/") and requested != found.encode():  # the guard removed the slash
            return RedirectResponse(f"../{found.rpartition('/')[2]}", status_code=308)
        return answer()

    app.add_route(path, route, include_in_schema=False)


def _add_model_routes(app: FastAPI, service: Service) -> None:
    def answer(path: str, body: type[BaseModel], response: type[BaseModel], summary: str) -> None:
        async def route(request: Request) -> Response:
            raw = await read_json_body(request, service.limits)
            state = request.scope["state"]
            exchange = await service.begin(path, raw, cache_salt=state["cache_salt"])
            return Answering(service, exchange, state["arrived_s"])

        _add_post(app, path, route, body, response, summary, has_stream=True)

    answer(CHAT_PATH, ChatCompletionRequest, ChatCompletion, "Create a chat completion")
    answer(COMPLETION_PATH, CompletionRequest, Completion, "Create a completion")
    answer(RESPONSES_PATH, ResponsesRequest, ResponseObject, "Create a response (OpenAI's Responses API)")

    stored, errors = f"{RESPONSES_PATH}/{{response_id}}", _errors(401, 404, 503)

    @app.get(stored, response_model=ResponseObject, responses=errors, summary="Get a stored response")
    async def stored_response(response_id: str, request: Request) -> Response:
        found = service.endpoints.responses.get(response_id, request.scope["state"]["cache_salt"])
        return Response(found, media_type="application/json")

    @app.delete(stored, response_model=DeletedResponse, responses=errors, summary="Delete a stored response")
    async def delete_response(response_id: str, request: Request) -> Response:
        service.endpoints.responses.delete(response_id, request.scope["state"]["cache_salt"])
        return JsonAnswer({"id": response_id, "object": "response", "deleted": True})

    def convert(work: Callable[[Endpoints, Any], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def route(request: Request) -> Response:
            raw = await read_json_body(request, service.limits)
            endpoints = service.endpoints
            return await service.run_sized(raw, lambda body: JsonAnswer(work(endpoints, body)))

        return route

    summary = "Convert text or messages to token ids"
    _add_post(app, "/tokenize", convert(tokenize), TokenizeRequest, TokenizeResponse, summary)
    summary = "Convert token ids to text"
    _add_post(app, "/detokenize", convert(detokenize), DetokenizeRequest, DetokenizeResponse, summary)

    @app.get(
        "/tokenizer_info", response_model=TokenizerInfo, responses=_errors(401, 503), summary="Describe the tokenizer"
    )
    async def tokenizer() -> Response:
        return JsonAnswer(tokenizer_info(service.endpoints))

    @app.get("/v1/models", response_model=ModelList, responses=_errors(401, 503), summary="List models")
    async def models() -> Response:
        return JsonAnswer({"object": "list", "data": [_model_card(service, name) for name in _names(service)]})

    @app.get(
        "/v1/models/{name:path}", response_model=ModelCard, responses=_errors(401, 404, 503), summary="Get a model"
    )
    async def model(name: str) -> Response:
        return JsonAnswer(_model_card(service, service.endpoints.model_name(name)))


def _add_state_routes(app: FastAPI, service: Service) -> None:
    not_ready: dict[int | str, dict[str, Any]] = {**_errors(), 503: {"model": dict[str, str]}}

    @app.get("/health", response_model=dict[str, str], summary="Readiness check", responses=not_ready)
    @app.get("/health/ready", response_model=dict[str, str], summary="Readiness check (alias)", responses=not_ready)
    async def ready() -> Response:
        return JsonAnswer({"status": service.state}, status_code=200 if service.state == "ready" else 503)

    @app.get("/health/live", response_model=dict[str, str], summary="Liveness check", responses=_errors())
    async def live() -> Response:
        return JsonAnswer({"status": "live"})

    @app.get(
        "/metrics", summary="Metrics in Prometheus text format", response_class=PlainTextResponse,
        responses=_errors(401),
    )  # fmt: skip
    async def prometheus() -> Response:
        return PlainTextResponse(service.metrics.text(), headers={"content-type": metrics.CONTENT_TYPE})

    @app.get("/version", response_model=Version, responses=_errors(401), summary="Server version")
    async def version() -> Response:
        return JsonAnswer({"version": __version__})


def _add_post(
    app: FastAPI,
    path: str,
    route: Callable[[Request], Awaitable[Response]],
    body: type[BaseModel],
    response: type[BaseModel],
    summary: str,
    *,
    has_stream: bool = False,
) -> None:
    """A route that reads its body itself, within limits; the OpenAPI schema still describes the body."""
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    stream = {"text/event-stream": {"schema": _EVENT}} if has_stream else {}
    app.add_api_route(
        path, route, methods=["POST"], response_model=response, summary=summary,
        responses={200: {"content": stream}, **_errors(400, 401, 404, 408, 413, 415, 429, 500, 503, 504)},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )  # fmt: skip


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses, and those that any request may get."""
    return {status: {"model": ErrorResponse} for status in sorted({*statuses, 403, 414, 431})}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema, plus the bodies that the routes read themselves."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )  # fmt: skip
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        for body in (ChatCompletionRequest, CompletionRequest, ResponsesRequest, TokenizeRequest, DetokenizeRequest):
            found = body.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= found.pop("$defs", {})
            schemas[body.__name__] = found
        _remove_unused(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _remove_unused(schema: dict[str, Any]) -> None:
    """Removes FastAPI's validation error, which this server never sends."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def _names(service: Service) -> tuple[str, ...]:
    return service.endpoints.model_names


def _model_card(service: Service, name: str) -> dict[str, Any]:
    endpoints, llm = service.endpoints, service.endpoints.llm
    card = ModelCard(
        id=name, created=int(service.started_s), max_model_len=llm.engine.max_model_len,
        is_chat=llm.generation_defaults.is_chat, thinking=llm.answer_form.thinking,
        parent=endpoints.own_names[0] if name in endpoints.adapter_names else None,
    )  # fmt: skip
    return card.model_dump()


class _Static(StaticFiles):
    """The page's files; paths outside the directory are not found. Range requests are not supported."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    def file_response(self, full_path: Any, stat_result: Any, scope: Any, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["accept-ranges"] = "none"
        response.headers["cache-control"] = REVALIDATE
        return response


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "no such path; see /docs", 405: "method not allowed for this path; see /docs"}
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    told = ApiError(error.status_code, text.get(error.status_code, str(error.detail)), code=code)
    answer = error_answer(told)
    answer.headers.update(error.headers or {})
    return answer


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_answer(error)
