"""A card as one self-contained HTML page in both languages: nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from qwartet.card.table import LANGUAGES, Language

_TEMPLATES = Path(__file__).with_name("templates")
_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def page(title: str, texts: Mapping[Language, str], pictures: Mapping[str, bytes]) -> str:
    """The page of a card's Markdown by language; raw HTML in it is shown as text, `pictures` are set in."""
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    style, script = (_TEMPLATES.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    articles = [(language, _html(texts[language], pictures)) for language in LANGUAGES]
    return environment.get_template("page.html").render(
        title=title, articles=articles, style=style, script=script, script_hash=_hash(script), style_hash=_hash(style)
    )


def _html(text: str, pictures: Mapping[str, bytes]) -> str:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _environment: Any) -> str:
        token = tokens[index]
        token.attrSet("src", _data_url(str(token.attrGet("src")), pictures))
        token.attrSet("alt", token.content)
        return renderer.renderToken(tokens, index, parser.options, {})

    parser.add_render_rule("image", image)
    tokens = parser.parse(text)
    for token in tokens:
        if token.attrGet("style") is not None:  # the alignment of a cell; the page allows no style of a single element
            token.attrs = {"class": str(token.attrGet("style")).removeprefix("text-align:")}
    html: str = parser.renderer.render(tokens, parser.options, {})
    return html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def _data_url(name: str, pictures: Mapping[str, bytes]) -> str:
    """A picture in the page itself; one that is not there stays an empty address."""
    if name not in pictures:
        return ""
    content = base64.b64encode(pictures[name]).decode()
    return f"data:{_MEDIA_TYPES[Path(name).suffix]};base64,{content}"


def _hash(text: str) -> str:
    """As a Content-Security-Policy names a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
