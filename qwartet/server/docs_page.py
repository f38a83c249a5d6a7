"""/docs: the API as one page, made from the OpenAPI schema; no script, nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Qwartet API</title>
<link rel="stylesheet" href="static/docs.css">
</head>
<body><main>{body}</main></body>
</html>
"""


def route(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """The page of an application's schema."""

    async def docs(request: Request) -> Response:
        return HTMLResponse(render(app.openapi()))

    return docs


def render(schema: dict[str, Any]) -> str:
    """The page."""
    parts = [
        _text("h1", f"{schema['info']['title']} {schema['info']['version']}"),
        _text("p", schema["info"]["description"]),
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts += _operation(path, method, operation, schema["components"]["schemas"])
    parts.append('<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>')
    return _PAGE.format(body="".join(parts))


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    parts = [
        f"<h2><code>{html.escape(method.upper())} {html.escape(path)}</code></h2>",
        _text("p", operation["summary"]),
    ]
    content = operation.get("requestBody", {}).get("content", {})
    for media in content.values():
        name = media["schema"]["$ref"].rpartition("/")[2]
        parts.append(_fields(schemas[name]))
    statuses = ", ".join(operation["responses"])
    parts.append(_text("p", f"Answers with status {statuses}."))
    return parts


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(_type(field))}</td>"
        f"<td>{'required' if name in required else ''}</td></tr>"
        for name, field in schema["properties"].items()
    ]
    return f"<table><tr><th>field</th><th>type</th><th></th></tr>{''.join(rows)}</table>"


def _type(field: dict[str, Any]) -> str:
    """A type in a few words."""
    if "anyOf" in field:
        kinds = [_type(one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "const" in field or "enum" in field:
        return ", ".join(str(one) for one in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", "any"))


def _text(tag: str, text: str) -> str:
    return f"<{tag}>{html.escape(text)}</{tag}>"
