"""Texts with gaps: "{} is missing; {}" finds what stands in the gaps of a message, and puts it into a translation.

A key has `{}` for each gap. Its translation names them `{0}`, `{1}`, in any order; `{0:list}` translates the words
between items ("a, b or c"). A translation may also list the words that a gap can hold, and then it holds no others:

    "{}: {} weights, {}": ["{0}：{1} 个权重，{2}", {"2": {"kept": "已保留", "removed": "已删除"}}]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

GAP = "{}"
_PLACE = re.compile(r"\{(\d+)(:list)?\}")
_BETWEEN_ITEMS = ((", or ", " 或 "), (", and ", " 和 "), (" or ", " 或 "), (" and ", " 和 "), (", ", "、"))


@dataclass(frozen=True)
class Template:
    """One key and its translation."""

    key: str
    value: str
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by the number of a gap, as text

    def takes(self, contents: Sequence[str]) -> bool:
        """Whether each gap holds one of the words that are listed for it."""
        return all(contents[int(number)] in words for number, words in self.words.items())

    def fill(self, contents: Sequence[str]) -> str:
        """The translation with these contents of its gaps."""

        def content(match: re.Match[str]) -> str:
            text = contents[int(match[1])]
            for english, chinese in _BETWEEN_ITEMS if match[2] else ():
                text = text.replace(english, chinese)
            return text

        return _PLACE.sub(content, self.value)


class Templates:
    """Finds the templates that a text can come from, in time linear in the text for each."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._exact = {template.key: template for template in templates if GAP not in template.key}
        with_gaps = (template for template in templates if GAP in template.key)
        self._with_gaps = [
            (max(parts, key=len), parts, template) for template in with_gaps if (parts := template.key.split(GAP))
        ]

    def matches(self, text: str) -> Iterator[tuple[Template, list[str]]]:
        """Each template that fits, with the contents of its gaps; one without gaps excludes all others."""
        exact = self._exact.get(text)
        if exact is not None:
            yield exact, []
            return
        for longest, parts, template in self._with_gaps:
            if longest in text and (contents := _contents(parts, text)) is not None and template.takes(contents):
                yield template, contents


def _contents(parts: Sequence[str], text: str) -> list[str] | None:
    """What stands between the parts of a key, each being sought from the left; None where they do not fit."""
    first, *middle, last = parts
    end = len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last) or end < len(first):
        return None
    contents, start = [], len(first)
    for part in middle:
        place = text.find(part, start, end)
        if place < 0:
            return None
        contents.append(text[start:place])
        start = place + len(part)
    return [*contents, text[start:end]]
