"""card.json: everything that a card says, as our commands answered; written after each of them.

{"card": {"version": ..., "date": ..., "models": [...]}, "steps": [{"kind": ..., "command": ..., "output": {...}}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import SettingError
from qwartet.files import atomic_write

NAME = "card.json"


@dataclass(frozen=True)
class Measured:
    """A step that was run."""

    kind: str
    command: str
    model: str | None
    shots: int | None
    version: str  # of Qwartet
    date: str
    output: dict[str, Any] | None  # None where it failed
    failure: str | None = None


@dataclass(frozen=True)
class CardData:
    """The content of a card: the models' names, the subject first, and what was measured."""

    models: tuple[str, ...]
    version: str
    date: str
    compression: dict[str, dict[str, int]]  # of the subject's tokenizer: bytes and tokens by language
    steps: tuple[Measured, ...]

    @property
    def subject(self) -> str:
        return self.models[0]

    def of(self, kind: str, model: str | None = None) -> Iterator[Measured]:
        """The steps of a kind that did not fail, of one model where one is named."""
        for step in self.steps:
            if step.kind == kind and step.output is not None and model in (None, step.model):
                yield step

    def output(self, kind: str, model: str | None = None) -> dict[str, Any]:
        """The first such step's output; empty where there is none."""
        return next((step.output or {} for step in self.of(kind, model)), {})

    def write(self, path: Path) -> None:
        """Writes the file; OSError where it cannot be written."""
        values = asdict(self)
        head = {name: values.pop(name) for name in ("models", "version", "date", "compression")}
        text = json.dumps({"card": head, **values}, ensure_ascii=False, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def read_card(path: Path) -> CardData:
    """The content of a card.json. SettingError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        steps = tuple(Measured(**step) for step in content["steps"])
        return CardData(**{**content["card"], "models": tuple(content["card"]["models"])}, steps=steps)
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SettingError(f"{path} is not a card of this version; choose another --out, or pass --overwrite") from None
