"""/docs: the API as one page, made from the OpenAPI schema; no script, nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

from qwartet.openai_api.protocol import NO_EFFECT_WORDS

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


def render(schema: dict[str, Any]) -> str:
    """The page."""
    parts = [
        _text("h1", f"{schema['info']['title']} {schema['info']['version']}"),
        _text("p", schema["info"]["description"]),
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts += _operation(path, method, operation, schema["components"]["schemas"])
    for name in _objects(schema):
        object_schema = schema["components"]["schemas"][name]
        parts.append(f'<h2 id="{html.escape(name)}"><code>{html.escape(name)}</code></h2>')
        parts.append(_text("p", _first_sentence(object_schema)) + _fields(object_schema))
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


def _objects(schema: dict[str, Any]) -> list[str]:
    """Names of the objects that bodies have in them, in the order in which they are named."""
    schemas, found = schema["components"]["schemas"], dict[str, None]()

    def look(value: Any) -> None:
        for ref in _refs(value):
            if ref not in found:
                found[ref] = None
                look(schemas[ref])

    for operations in schema["paths"].values():
        for operation in operations.values():
            for name in _refs(operation.get("requestBody")):
                look(schemas[name])
    return list(found)


def _refs(value: Any) -> Iterator[str]:
    """Names of the schemas that a part of a schema refers to."""
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str):
            yield ref.rpartition("/")[2]
        for inner in value.values():
            yield from _refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _refs(inner)


def _first_sentence(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "")).partition("\n\n")[0].replace("\n", " ")


def _fields(schema: dict[str, Any]) -> str:
    """A table: what is required first, what has no effect last."""
    required = schema.get("required", [])

    def rank(item: tuple[str, dict[str, Any]]) -> int:
        return -1 if item[0] in required else int(item[1].get("description") == NO_EFFECT_WORDS)

    rows = [
        f"<tr><td><code>{html.escape(name)}</code></td><td>{_type(field)}</td>"
        f"<td>{html.escape(_words(field, is_required=name in required))}</td></tr>"
        for name, field in sorted(schema["properties"].items(), key=rank)
    ]
    return f"<table><tr><th>field</th><th>type</th><th></th></tr>{''.join(rows)}</table>"


def _words(field: dict[str, Any], *, is_required: bool) -> str:
    """What there is to say of a field."""
    return " ".join(filter(None, ["Required." if is_required else "", field.get("description", ""), *_bounds(field)]))


def _bounds(field: dict[str, Any]) -> Iterator[str]:
    """Of numbers and lists."""
    for one in (field, *field.get("anyOf", ())):
        if "minimum" in one and "maximum" in one:
            yield f"From {one['minimum']} to {one['maximum']}."
        if one.get("maxItems"):
            yield f"At most {one['maxItems']} of them."


def _type(field: dict[str, Any]) -> str:
    """A type in a few words, as HTML: what has a table of its own is linked."""
    for several in ("anyOf", "oneOf"):
        if several in field:
            kinds = [_type(one) for one in field[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        name = html.escape(str(field["$ref"]).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "const" in field or "enum" in field:
        return html.escape(", ".join(map(json.dumps, field.get("enum", [field.get("const")]))))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return html.escape(str(field.get("type", "any")))


def _text(tag: str, text: str) -> str:
    return f"<{tag}>{html.escape(text)}</{tag}>"
