"""/docs: the API reference as one page, made from the OpenAPI schema, without scripts or external files."""

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
    """The page as HTML."""
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
    parts.append('<p>Machine-readable: <a href="openapi.json">openapi.json</a>.</p>')
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
    parts.append(_text("p", f"Status codes: {statuses}."))
    return parts


def _objects(schema: dict[str, Any]) -> list[str]:
    """Names of the objects that request bodies contain, in order of appearance."""
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
    """Names of the schemas that a part of the schema refers to."""
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
    """A table of fields: required ones first, ignored ones last."""
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
    """The description of a field."""
    return " ".join(filter(None, ["Required." if is_required else "", field.get("description", ""), *_bounds(field)]))


def _bounds(field: dict[str, Any]) -> Iterator[str]:
    """The limits of a number or list."""
    for one in (field, *field.get("anyOf", ())):
        if "minimum" in one and "maximum" in one:
            yield f"Between {one['minimum']} and {one['maximum']}."
        if one.get("maxItems"):
            yield f"At most {one['maxItems']} items."


def _type(field: dict[str, Any]) -> str:
    """A type in a few words, as HTML; objects link to their tables."""
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
