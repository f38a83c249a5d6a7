"""Which hubs are there, and what does Qwartet need of one?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from qwartet.hub.download_errors import Wording
from qwartet.hub.hugging_face import HuggingFace
from qwartet.hub.listing import Listing
from qwartet.hub.modelscope import ModelScope
from qwartet.hub.repository import HubName, Repository
from qwartet.hub.snapshot import Place, Removal, Snapshot


class Hub(Protocol):
    """What Qwartet needs of a hub."""

    name: HubName
    default_revision: str

    def listing(self, repository: Repository, revision: str) -> Listing:
        """Asks the hub; any exception means that it cannot be had."""

    def headers(self) -> Mapping[str, str]:
        """What a request for a file carries."""

    def place(self, listing: Listing) -> Place:
        """Where the files of a listing lie, or will."""

    def finish(self, listing: Listing) -> None:
        """Notes on disk that `revision` is `commit`, all files being there."""

    def snapshot(self, repository: Repository, revision: str) -> Snapshot | None:
        """What is here of a revision; None without a directory of it."""

    def snapshots(self) -> Iterable[Snapshot]:
        """All that is here."""

    def removal(self, snapshot: Snapshot, unfinished_blobs: frozenset[str]) -> Removal:
        """How to delete what belongs to a snapshot alone, contents that are not all here (by their hashes) included."""

    def wording(self) -> Wording:
        """How its errors are told."""


HUBS: dict[HubName, Hub] = {"hf": HuggingFace(), "modelscope": ModelScope()}
