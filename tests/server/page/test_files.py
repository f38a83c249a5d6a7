"""Checks the page's source files: nothing inline, nothing external, no HTML from strings, both languages complete."""

from __future__ import annotations

import re

import pytest

from tests.server.page.stub_server import STATIC

FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
INDEX = (STATIC / "index.html").read_text(encoding="utf-8")
NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1998/Math/MathML")
SINKS = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "createContextualFragment", "srcdoc",
    "setHTML", "eval(", "new Function", "setAttribute(\"style\"", "javascript:", "importScripts", "serviceWorker",
)  # fmt: skip


def test_sec_21_no_script_makes_html_or_code_of_a_string() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS}
    assert not [f"{name}: {sink}" for name, text in texts.items() for sink in SINKS if sink in text]


def test_sec_21_the_document_has_no_inline_script_style_or_handler() -> None:
    assert not re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=", INDEX)


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for namespace in NAMESPACES:
            text = text.replace(namespace, "")
        addresses = re.findall(r"(?:https?:)?//[a-z0-9][\w.-]*\.[a-z]{2,}|url\(|@import", text)
        assert not addresses, path.name


def test_every_file_is_used_and_every_used_file_is_there() -> None:
    used = set(re.findall(r'(?:src|href)="static/([^"]+)"', INDEX)) | {
        "index.html",
        "docs.css",
    }  # the latter: docs_page.py
    for path in SCRIPTS:
        used |= set(re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")))
    assert used == {path.name for path in FILES}


def words_of(language: str) -> dict[str, set[str]]:
    """Key -> the names that are filled in."""
    text = (STATIC / f"words_{language}.js").read_text(encoding="utf-8")
    return {key: set(re.findall(r"\{(\w+)\}", words)) for key, words in re.findall(r'^  (\w+): "(.*)",$', text, re.M)}


def test_both_languages_have_the_same_words() -> None:
    assert len(words_of("en")) > 50
    assert words_of("en") == words_of("zh")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_key_that_is_used_has_words(language: str) -> None:
    used = set(re.findall(r'data-t(?:-label|-hint)?="(\w+)"', INDEX))
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r'\bt\("(\w+)"', text)) | set(re.findall(r'\bbutton\("[\w-]+", "(\w+)"', text))
        used |= set(re.findall(r'\blabel: "(\w+)"', text))
    assert len(used) > 50
    assert sorted(used - words_of(language).keys()) == []


def test_no_words_are_unused() -> None:
    text = INDEX + "".join(path.read_text(encoding="utf-8") for path in SCRIPTS if not path.name.startswith("words_"))
    computed = {f"starter{i}" for i in range(1, 5)} | {f"starter{i}Text" for i in range(1, 5)}
    names = {"temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"}
    unused = [key for key in words_of("en").keys() - computed - names if f'"{key}"' not in text]
    assert unused == []
