"""Which model on which hub: "Qwen/Qwen-7B-Chat", "hf:Qwen/Qwen-7B-Chat", "modelscope:qwen/Qwen-7B-Chat"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

HubName = Literal["hf", "modelscope"]

# "org/name" or "name": exactly what the hubs accept. "./x", "/x", "~/x", "x/" and "a/b/c" are paths.
_ID = re.compile(r"(?=.{1,96}$)(?!.*(--|\.\.|\.git$))(\w[\w.-]*/)?\w([\w.-]*\w)?", re.ASCII)

_KINDS = ("", "-Chat", "-Chat-Int4", "-Chat-Int8")
PUBLISHED_NAMES = tuple(f"Qwen/Qwen-{size}{kind}" for size in ("1_8B", "7B", "14B", "72B") for kind in _KINDS)
"""The first-generation models, as both hubs name them."""


@dataclass(frozen=True, order=True)
class Repository:
    """A model's place on a hub; `name` is its id there."""

    hub: HubName
    name: str

    def __str__(self) -> str:
        return self.name if self.hub == "hf" else f"{self.hub}:{self.name}"

    @property
    def key(self) -> str:
        """The same as part of a file's name."""
        return f"{self.hub}--{self.name.replace('/', '--')}"


def parse_repository(text: str, hub: HubName = "hf") -> Repository | None:
    """The repository that `text` names, on `hub` unless a prefix says which; None for what cannot be an id."""
    prefix, colon, name = text.partition(":")
    if not colon:
        prefix, name = hub, text
    for known in get_args(HubName):
        if prefix == known and _ID.fullmatch(name) and (known == "hf" or "/" in name):
            return Repository(known, name)
    return None
