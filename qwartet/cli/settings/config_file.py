"""What does a YAML settings file contain, and on which lines?

    all:                      # for every verb that has the option
      threads: 8
    serve:                    # for one verb
      port: 8000
      allowed-origins: [https://a.example, https://b.example]
    bench:
      throughput: {requests: 32}

Only this subset of YAML is supported: mappings, lists, and scalars, which all stay text. A value means what it would
mean on the command line, so that `system: no` is the text "no". Anchors, aliases, tags and duplicate keys are rejected.
PyYAML produces events and builds no objects; size and depth are limited, since 64 KiB of "[" take it minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qwartet.errors import SettingError
from qwartet.files import decode_text

if TYPE_CHECKING:
    from yaml import Event  # type: ignore[import-untyped]  # PyYAML has no types

MAX_BYTES = 64 * 1024
MAX_DEPTH = 4  # bench: {throughput: {option: [value]}}
_NOTHING = ("", "~", "null", "Null", "NULL")  # YAML's spellings of null, unquoted


class Entry(NamedTuple):
    """The content of a key: text, texts, a section, or None if empty; and the line of the key, from 1."""

    line: int
    content: str | list[str] | dict[str, Entry] | None


def read_config_file(path: Path) -> dict[str, Entry]:
    """The sections of a file; keys with "-", never "_". SettingError, with the line of what is wrong."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}; choose a readable YAML settings file") from None
    if len(raw) > MAX_BYTES:
        raise SettingError(f"{path}: larger than {MAX_BYTES // 1024} KiB; choose a YAML settings file")
    try:
        text = decode_text(raw)
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from None
    return _Reader(path, text).sections()


class _Reader:
    """Turns the events of one file into entries. Errors never show a value: it may be an API key."""

    def __init__(self, path: Path, text: str) -> None:
        import yaml  # 50 ms, which a start without a file need not wait for

        self._yaml = yaml
        self._path = path
        self._depth = 0
        self._events = self._checked(text)

    def sections(self) -> dict[str, Entry]:
        next(self._events)  # the stream starts
        event = next(self._events)
        if isinstance(event, self._yaml.StreamEndEvent):
            return {}
        content = self._content(next(self._events))
        next(self._events)  # the document ends
        event = next(self._events)
        if not isinstance(event, self._yaml.StreamEndEvent):
            raise self._error(event, "a second document", "a settings file is one document, without ---")
        if content is not None and not isinstance(content, dict):
            raise SettingError(f"{self._path}: not a mapping; write COMMAND: {{OPTION: VALUE}}")
        return content or {}

    def _checked(self, text: str) -> Iterator[Event]:
        """The events, one by one: what comes after a rejected one is never parsed."""
        yaml = self._yaml
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                if getattr(event, "anchor", None) is not None:  # an alias has one too
                    raise self._error(event, "anchors and aliases are not supported", "repeat the value")
                if getattr(event, "tag", None) is not None:
                    raise self._error(event, "tags are not supported", "write the value without !")
                if isinstance(event, yaml.CollectionStartEvent):
                    self._depth += 1
                    if self._depth > MAX_DEPTH:
                        raise self._error(event, "nested too deeply", "write COMMAND: {OPTION: VALUE}")
                elif isinstance(event, yaml.CollectionEndEvent):
                    self._depth -= 1
                yield event
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = f"line {mark.line + 1}: " if mark is not None else ""
            problem = getattr(error, "problem", None) or "invalid character"
            raise SettingError(
                f"{self._path}: {place}not valid YAML ({problem}); write COMMAND: {{OPTION: VALUE}}"
            ) from None

    def _content(self, event: Event) -> Any:
        yaml = self._yaml
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping()
        if isinstance(event, yaml.SequenceStartEvent):
            return list(self._items())
        assert isinstance(event, yaml.ScalarEvent)
        return None if event.style is None and event.value in _NOTHING else event.value

    def _mapping(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            key = self._content(event)
            if not isinstance(key, str):
                raise self._error(event, "a key is not text", "write OPTION: VALUE")
            name = key.replace("_", "-")
            if name in found:
                raise self._error(event, f"duplicate key {name}, also on line {found[name].line}", "remove one of them")
            found[name] = Entry(event.start_mark.line + 1, self._content(next(self._events)))
        return found

    def _items(self) -> Iterator[str]:
        while not isinstance(event := next(self._events), self._yaml.SequenceEndEvent):
            item = self._content(event)
            if not isinstance(item, str):
                raise self._error(event, "a list item is not text", "write one value per item")
            yield item

    def _error(self, event: Event, what: str, advice: str) -> SettingError:
        return SettingError(f"{self._path}: line {event.start_mark.line + 1}: {what}; {advice}")
