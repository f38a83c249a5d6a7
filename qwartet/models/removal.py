"""What goes with a model that is removed: its files, its record, its packed weights, and nothing else."""

from __future__ import annotations

from qwartet.errors import SettingError
from qwartet.models.cache_directory import cache_directory
from qwartet.models.hubs import HUBS
from qwartet.models.snapshot import Removal, Snapshot, size_of
from qwartet.models.stored import StoredModel


def removal_of(model: StoredModel) -> Removal:
    """How to remove a model of a hub's cache; SettingError for one that lies elsewhere."""
    if model.repository is None:
        raise SettingError(f"{model.directory}: is no model of a hub's cache; remove the directory yourself")
    snapshot = Snapshot(model.repository, model.directory, model.commit, model.revisions)
    manifest = model.manifest
    blobs = frozenset(file.blob for file in manifest.files) if manifest is not None else frozenset()
    of_hub = HUBS[model.repository.hub].removal(snapshot, blobs)
    packed = []
    if (cache_directory() / "packed").is_dir():  # else torch, which this imports, need not be loaded
        from qwartet.models.cache_key import caches_of
        from qwartet.models.weight_cache import packed_directory

        packed = caches_of(packed_directory(), model.directory)
    records = [] if manifest is None else [manifest.path, manifest.path.with_suffix(".lock")]

    def execute() -> None:
        of_hub.execute()
        for path in (*packed, *records):
            path.unlink(missing_ok=True)

    return Removal(of_hub.num_bytes + size_of(packed), execute)
