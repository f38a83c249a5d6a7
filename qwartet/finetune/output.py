"""The directory of a run: what it may be, its checkpoints, and the record that a resumed run has to agree with.

run.json                the settings, the model and the data
checkpoint-1000/, ...   complete or absent: written under .checkpoint-1000.tmp and renamed
the result's own files  in the directory itself, at the end
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.writer import flush, write_json, writing
from qwartet.errors import SettingError
from qwartet.files import locked
from qwartet.finetune.settings import WITHOUT_EFFECT_ON_WEIGHTS
from qwartet.finetune.training_state import TRAINER

RECORD = "run.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_BEFORE_A_STEP = {RECORD, ".lock", "log.jsonl"}
_LEFT = re.compile(r"\.checkpoint-\d+\.(?:tmp|old)")


def check_output(output: Path, *, resume: bool, overwrite: bool, record: Mapping[str, Any]) -> None:
    """SettingError unless the directory is new or empty, or may be resumed or overwritten; writes nothing."""
    if resume and overwrite:
        raise SettingError("--resume and --overwrite exclude each other; pass one of them")
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise SettingError(f"{output} is not a directory; choose another name")
    if {path.name for path in output.iterdir()} <= _BEFORE_A_STEP and not resume:
        return
    is_run = (output / RECORD).is_file()
    if not is_run:
        raise SettingError(f"{output} is not empty, and is not of an earlier run; choose another directory")
    if resume:
        _check_same(output, record)
    elif not overwrite:
        raise SettingError(
            f"{output} holds an earlier run; resume it with --resume, replace it with --overwrite, or choose another "
            "directory"
        )


def _check_same(output: Path, record: Mapping[str, Any]) -> None:
    theirs = read_json(output / RECORD)
    for part, ours in record.items():
        known = theirs.get(part)
        if not isinstance(ours, Mapping) or not isinstance(known, Mapping):
            differing = [] if known == ours else [f"{part} {known!r:.60}, not {ours!r:.60}"]
        else:
            differing = [
                f"{name} {known.get(name)!r:.60}, not {value!r:.60}"
                for name, value in ours.items()
                if known.get(name) != value and name not in WITHOUT_EFFECT_ON_WEIGHTS
            ]
        if differing:
            raise SettingError(
                f"{output} holds a run with other settings ({', '.join(differing)}); use those to resume, or choose "
                "another directory"
            )


@contextmanager
def claimed(output: Path, *, overwrite: bool, record: Mapping[str, Any]) -> Iterator[None]:
    """The directory with its record, for this run alone; what an earlier run left is removed with `overwrite`."""

    def on_busy() -> None:
        raise SettingError(f"{output} is in use by another run; wait for it, or choose another directory")

    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with locked(output / ".lock", on_busy):
        for path in output.iterdir():
            if _LEFT.fullmatch(path.name) or (overwrite and path.name != ".lock"):
                _remove(path)
        write_json(output / RECORD, record)
        yield


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints, the oldest first."""
    found = [path for path in output.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)]
    complete = [path for path in found if (path / TRAINER).is_file()]
    return sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]))


def unfinished(output: Path, step: int) -> Path:
    """Where the checkpoint of a step is written."""
    return output / f".checkpoint-{step}.tmp"


def publish_checkpoint(output: Path, step: int, limit: int) -> Path:
    """Gives a finished checkpoint its name, and removes the oldest beyond `limit`."""
    new, target = unfinished(output, step), output / f"checkpoint-{step}"
    old = output / f".checkpoint-{step}.old"
    with writing(target):
        for file in new.rglob("*"):
            flush(file)
        flush(new)
        if target.exists():  # of a run that went on after the checkpoint that was resumed
            target.rename(old)
        new.rename(target)
        flush(output)
        shutil.rmtree(old, ignore_errors=True)
        for path in checkpoints(output)[:-limit]:
            shutil.rmtree(path)
    return target
