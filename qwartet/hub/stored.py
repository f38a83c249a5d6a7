"""The models on this machine: the bundled one, and those in the hubs' caches, from Qwartet or other tools.

Nothing is hashed and no tensor is read, only directories and their small JSON files.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwartet import DEMO
from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError, ModelNotFoundError, SettingError
from qwartet.files import cache_directory
from qwartet.hub.hubs import HUBS
from qwartet.hub.manifest import Manifest, manifest_of, read_manifests
from qwartet.hub.repository import Repository, parse_repository
from qwartet.hub.snapshot import Removal, Snapshot, size_of, unfinished
from qwartet.models.model_types import MODEL_TYPES
from qwartet.models.shapes import published_size

State = Literal["complete", "loadable", "partial"]
"""loadable: the weights and their config are there; whether other small files are missing is unknown."""

BUNDLED = "(bundled)"
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredModel:
    """A model on this machine; `repository` is None for the bundled one and for a directory outside the caches."""

    repository: Repository | None
    directory: Path
    commit: str | None
    revisions: tuple[str, ...]
    state: State
    num_bytes: int  # on disk
    expected_bytes: int | None  # of the complete model, where known
    changed_at: float  # seconds since 1970
    size: str | None  # "7b"; None for one that is not published
    precision: str | None  # "int4", "int8", "bf16", ...
    is_chat: bool | None
    manifest: Manifest | None

    @property
    def name(self) -> str:
        if self.repository is None:
            return BUNDLED if self.directory == DEMO else str(self.directory)
        return str(self.repository)

    @property
    def kind(self) -> str:
        """What it is in a few words: "Qwen 7b chat, int4"."""
        if not self.precision:
            return "Qwen"
        tuning = None if self.is_chat is None else "chat" if self.is_chat else "base"
        return f"{' '.join(filter(None, ['Qwen', self.size, tuning]))}, {self.precision}"


def stored_models() -> Iterator[StoredModel]:
    """All of them, the bundled one first; models that Qwartet cannot read are skipped."""
    if DEMO.is_dir():
        yield stored_model(None, DEMO, None, (), None)
    manifests = {manifest.directory: manifest for manifest in read_manifests()}
    for hub in HUBS.values():
        for snapshot in hub.snapshots():
            manifest = manifests.get(snapshot.directory)
            if manifest is not None or _json(snapshot.directory / "config.json").get("model_type") in MODEL_TYPES:
                yield of_snapshot(snapshot, manifest)


def find_stored(name: str | None, revision: str | None = None) -> list[StoredModel]:
    """The local copies of a model, the commit that its name means first; a directory; the bundled model (None).

    ModelNotFoundError when there is none.
    """
    path = None if name is None else Path(os.path.expanduser(name))
    if path is None or (name and path.is_dir()):
        if revision is not None:
            raise SettingError(f"revision is {revision!r}; it needs a hub id")
        return [stored_model(None, path or DEMO, None, (), manifest_of(path or DEMO))]
    models, repository = list(stored_models()), parse_repository(name or "")
    found = [model for model in models if model.repository == repository and repository is not None]
    if revision is not None:
        found = [model for model in found if _is_revision(model, revision)]
    if not found:
        names = sorted({model.name for model in models if model.repository is not None})
        near = difflib.get_close_matches(name or "", names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "qwartet list shows the models that are"
        shown = name if name and name.isprintable() else repr(name)
        at = "" if revision is None else f" at revision {revision!r}"
        raise ModelNotFoundError(f"{shown}{at}: not on this machine; {hint}")
    assert repository is not None
    meant = revision or HUBS[repository.hub].default_revision
    return sorted(found, key=lambda model: (not _is_revision(model, meant), -model.changed_at))


def _is_revision(model: StoredModel, revision: str) -> bool:
    """Whether a branch, a tag, a commit or the first digits of one mean this model."""
    begins = len(revision) >= 7 and model.commit is not None and model.commit.startswith(revision)
    return begins or revision in model.revisions


def of_snapshot(snapshot: Snapshot, manifest: Manifest | None) -> StoredModel:
    """The stored model of a snapshot."""
    revisions = snapshot.revisions or ((manifest.revision,) if manifest is not None else ())
    return stored_model(snapshot.repository, snapshot.directory, snapshot.commit, revisions, manifest)


def stored_model(
    repository: Repository | None,
    directory: Path,
    commit: str | None,
    revisions: tuple[str, ...],
    manifest: Manifest | None,
) -> StoredModel:
    """The stored model of a directory."""
    sizes, changed_at = _sizes(directory, manifest)
    config = _json(directory / "config.json")
    chat_format = _json(directory / "generation_config.json").get("chat_format")
    return StoredModel(
        repository=repository,
        directory=directory,
        commit=commit,
        revisions=revisions,
        state=state_of(directory, manifest),
        num_bytes=sizes,
        expected_bytes=None if manifest is None else manifest.num_bytes,
        changed_at=changed_at,
        size=_published_size(config),
        precision=_precision(config),
        is_chat=None if not config or chat_format is None else chat_format == "chatml",
        manifest=manifest,
    )


def state_of(directory: Path, manifest: Manifest | None) -> State:
    """Whether a directory holds the complete model, by names and sizes."""
    if manifest is not None:
        return "complete" if manifest.is_complete else "partial"
    if not (directory / "config.json").is_file() or not _has_weights(directory):
        return "partial"
    has_tokenizer = any(directory.glob("*.tiktoken")) or (directory / "tokenizer.json").is_file()
    has_rest = (directory / "generation_config.json").is_file() and has_tokenizer
    return "complete" if has_rest else "loadable"


def has_unfinished(repository: Repository) -> bool:
    """Whether an unfinished download of a model has left bytes that the next run goes on from."""
    begun = [one for one in read_manifests() if one.repository == repository and one.finished_at is None]
    try:
        return any(one.directory.is_dir() and _sizes(one.directory, one)[0] > 0 for one in begun)
    except OSError:  # another process has just renamed a file, or the directory is unreadable
        return False


def _has_weights(directory: Path) -> bool:
    weight_map = _json(directory / INDEX_NAME).get("weight_map")
    if isinstance(weight_map, dict):
        names = {name for name in weight_map.values() if isinstance(name, str) and os.path.basename(name) == name}
        return bool(names) and all((directory / name).is_file() for name in names)
    return any(path.is_file() for path in directory.glob("*.safetensors"))


def _sizes(directory: Path, manifest: Manifest | None) -> tuple[int, float]:
    """Bytes on disk, unfinished files included, and when the newest file was written."""
    paths = [path for path in directory.iterdir() if path.is_file()]
    if manifest is not None and manifest.finished_at is None:
        for blobs in (directory, directory.parent.parent / "blobs"):
            names = (file.name if blobs == directory else file.blob for file in manifest.files)
            paths += [path for name in names if (path := unfinished(blobs / name)).is_file() and path not in paths]
    found = [path.stat() for path in paths]
    return sum(status.st_size for status in found), max((status.st_mtime for status in found), default=0.0)


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except CheckpointError:
        return {}


def _published_size(config: dict[str, Any]) -> str | None:
    return published_size(
        config.get("hidden_size", config.get("n_embd")),
        config.get("num_hidden_layers", config.get("n_layer")),
        config.get("model_type", "qwen"),
    )


def _precision(config: dict[str, Any]) -> str | None:
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict) and isinstance(bits := quantization.get("bits"), int):
        return f"int{bits}"
    declared = [name for name in ("bf16", "fp16", "fp32") if config.get(name) is True]
    if declared:
        return declared[0]
    dtype = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    return dtype.get(str(config.get("dtype", config.get("torch_dtype"))))


def removal_of(model: StoredModel) -> Removal:
    """How to remove a model from a hub's cache; SettingError for one that is elsewhere."""
    if model.repository is None:
        raise SettingError(f"{model.directory} is not in a hub's cache; remove the directory yourself")
    snapshot = Snapshot(model.repository, model.directory, model.commit, model.revisions)
    manifest = model.manifest
    blobs = frozenset(file.blob for file in manifest.files) if manifest is not None else frozenset()
    of_hub = HUBS[model.repository.hub].removal(snapshot, blobs)
    packed = []
    if (cache_directory() / "packed").is_dir():  # else torch, which this imports, need not be loaded
        from qwartet.checkpoint.cache_directory import packed_directory
        from qwartet.checkpoint.cache_key import caches_of

        packed = caches_of(packed_directory(), model.directory)
    records = [] if manifest is None else [manifest.path]

    def execute() -> None:
        of_hub.execute()
        for path in (*packed, *records):
            path.unlink(missing_ok=True)

    return Removal(of_hub.num_bytes + size_of(packed), execute)
