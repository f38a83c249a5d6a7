"""Weights from a cache equal those that the checkpoint would give, and nothing can change them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from qwartet import files as whole_files
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.checkpoint import weight_cache
from qwartet.checkpoint.cache_directory import is_own_group, locked_write, remove_leftovers
from qwartet.checkpoint.cache_key import cache_key
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weights import Weights
from qwartet.errors import CacheWarning, SettingError
from qwartet.kernels.cpu.library import native_library
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import load_config
from qwartet.models.load import choose_settings, load_gptq_config, load_model
from qwartet.models.qwen import QwenModel
from qwartet.models.shapes import gptq_config
from tests.bench.tiny_shape import TINY
from tests.golden_data import REPOSITORY
from tests.models.broken import edit_tensors, refused, split_file
from tests.tiny_checkpoint import Copy

OTHERS_GROUP = 54321
pytestmark = pytest.mark.skipif(native_library() is None, reason="there is no native library, so nothing to cache")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test alone, used for models of any size."""
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    return tmp_path / "cache" / "packed"


def load(path: Path, **settings) -> QwenModel:
    return load_model(path, dtype="bf16", **settings)


def logits(model: QwenModel) -> Tensor:
    with torch.no_grad():
        return model(dense_batch([[1, 2, 3, 300, 5]], model.config.position))


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def packings(path: Path, **settings) -> int:
    """How many tensors a start repacks or converts."""
    told: list[int] = []
    load(path, on_packed=lambda count, _total: told.append(count), **settings)
    return len(told)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("load_mode", ["mmap", "pread"])
def test_the_network_is_the_same_without_a_cache_and_at_the_first_and_second_start(pristine, bits, load_mode) -> None:
    models = [load(pristine(bits=bits), load_mode=load_mode, weight_cache=kept) for kept in (False, True, True)]
    without, first, second = map(logits, models)
    assert torch.equal(first, without) and torch.equal(second, without)
    hidden = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert models[2].lm_head.prepared is not None
    assert models[0].lm_head.argmax(hidden, 500) == models[2].lm_head.argmax(hidden, 500)


@pytest.mark.parametrize("desc_act", [False, True])
def test_orders_of_inputs_are_kept(tmp_path, desc_act) -> None:
    path = tmp_path / "model"
    write_synthesis(plan_synthesis(TINY, gptq_config("int4", 64, desc_act)), path)
    models = [load(path, weight_cache=kept) for kept in (False, True, True)]
    assert (models[2].layers[0].mlp.up.prepared.order is not None) == desc_act
    assert torch.equal(logits(models[2]), logits(models[0]))


def test_a_second_start_packs_and_converts_nothing(pristine, monkeypatch) -> None:
    path = pristine(bits=4)
    assert packings(path) > 10
    for name in ("quantized", "prepared_head", "dense"):  # the file's floats are fp16, so all are converted
        monkeypatch.setattr(Weights, name, lambda *_: pytest.fail("made again"))
    assert packings(path) == 0


def test_the_total_is_what_is_told_of_piece_by_piece(pristine) -> None:
    told: dict[int, int] = {}

    def on_packed(count: int, total: int) -> None:
        told[total] = told.get(total, 0) + count

    load(pristine(bits=4), on_packed=on_packed)
    assert len(told) == 2 and all(total == count for total, count in told.items())


def test_the_copy_of_the_head_is_a_file_of_its_own(pristine, directory) -> None:
    load(pristine(bits=4), head="exact")
    assert len(files(directory)) == 1
    load(pristine(bits=4))
    assert len(files(directory)) == 2


def test_a_checkpoint_that_was_touched_or_moved_is_recognised_by_its_contents(checkpoint: Copy, tmp_path) -> None:
    path = checkpoint(bits=4)
    packings(path)
    os.utime(path / "model.safetensors", (1, 1))
    assert packings(path) == 0
    assert packings(Path(shutil.copytree(path, tmp_path / "elsewhere"))) == 0


def test_changed_weights_get_files_of_their_own(checkpoint: Copy, directory) -> None:
    path = checkpoint(bits=4)
    before = logits(load(path))
    status = (path / "model.safetensors").stat()
    edit_tensors(path / "model.safetensors", lambda tensors: tensors["transformer.h.0.mlp.w1.scales"].mul_(2))
    os.utime(path / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not torch.equal(logits(load(path)), before)
    assert torch.equal(logits(load(path)), logits(load(path, weight_cache=False)))
    assert len(files(directory)) == 4


def test_the_settings_that_give_codes_their_meaning_are_part_of_the_name(pristine, directory) -> None:
    path = pristine(bits=4)
    checkpoint, config, gptq = Checkpoint(path), load_config(path), load_gptq_config(path)
    assert gptq is not None
    kinds = (gptq, replace(gptq, sym=False, checkpoint_format="gptq"), replace(gptq, checkpoint_format="gptq_v2"))
    settings = [choose_settings(checkpoint, config, kind) for kind in kinds]
    assert len({cache_key(directory, checkpoint, choice, b"") for choice in settings}) == 3
    assert cache_key(directory, checkpoint, settings[0], b"") != cache_key(directory, checkpoint, settings[0], b"x")


@pytest.mark.parametrize("damage", ["cut", "header", "garbage"])
def test_a_damaged_cache_is_told_and_not_used(pristine, directory, damage) -> None:
    right = logits(load(pristine(bits=4)))
    for file in files(directory):
        header, data = split_file(file)
        changed = {
            "cut": file.read_bytes()[:-1],
            "header": file.read_bytes().replace(b'"U8"', b'"I8"', 1),
            "garbage": bytes(len(header) + len(data)),
        }
        file.write_bytes(changed[damage])
    with pytest.warns(CacheWarning, match="qwartet cache clear"):
        model = load(pristine(bits=4))
    assert torch.equal(logits(model), right)


def test_an_order_that_would_read_elsewhere_is_refused(tmp_path, directory) -> None:
    path = tmp_path / "model"
    write_synthesis(plan_synthesis(TINY, gptq_config("int4", 64, True)), path)
    load(path, head="exact")
    edit_tensors(files(directory)[0], lambda tensors: tensors["layers.1.mlp.up.order"].fill_(2**30))
    with pytest.raises(
        SettingError, match=r"layers\.1\.mlp\.up: order is not a permutation of the inputs.*qwartet cache clear"
    ):
        load(path, head="exact")


def test_what_cannot_be_kept_is_told_and_the_model_still_loads(pristine, directory, monkeypatch) -> None:
    monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.warns(CacheWarning, match="weight cache not used.* free there"):
        assert torch.equal(logits(load(pristine(bits=4))), logits(load(pristine(bits=4), weight_cache=False)))
    assert not files(directory)


def test_a_place_that_is_no_directory_is_told(pristine, directory) -> None:
    directory.parent.write_text("a file")
    with pytest.warns(CacheWarning, match="weight cache not used"):
        load(pristine(bits=4))


def test_an_interrupted_start_leaves_nothing_behind(pristine, directory) -> None:
    def stop(_count: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(pristine(bits=4), on_packed=stop)
    assert [path.suffix for path in directory.iterdir()] == [".json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from qwartet.checkpoint import weight_cache
from qwartet.models.load import load_model
weight_cache.LEAST_BYTES = 0
load_model(Path(sys.argv[1]), dtype="bf16", on_packed=lambda count, total: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_what_a_killed_start_left_is_removed_by_the_next_one_that_finds_all_packed_too(pristine, directory) -> None:
    path = pristine(bits=4)
    load(path)
    packed = {file: file.rename(directory.parent / file.name) for file in files(directory)}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=REPOSITORY, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert [left.name[0] for left in directory.glob(".*.safetensors.*.tmp")] == ["."]
    for file, kept in packed.items():
        kept.rename(file)
    assert packings(path) == 0
    assert not list(directory.glob(".*.tmp"))


def test_what_another_process_is_writing_is_left_and_gets_its_name(pristine, directory) -> None:
    directory.mkdir(parents=True)
    with locked_write(directory / "other.safetensors") as file:
        load(pristine(bits=4))
        (unfinished,) = directory.glob(".*.tmp")
        assert unfinished.stat().st_ino == os.fstat(file.fileno()).st_ino
        file.write(b"whole")
    assert (directory / "other.safetensors").read_bytes() == b"whole" and not list(directory.glob(".*.tmp"))


def test_leftovers_that_no_lock_tells_about_are_removed_after_a_day(pristine, directory, monkeypatch) -> None:
    directory.mkdir(parents=True)
    names = (".a.json.1.tmp", ".b.json.2.tmp", ".a.safetensors.1.tmp", ".b.safetensors.2.tmp")
    for name in names:
        (directory / name).touch()
        if name.startswith(".a"):
            os.utime(directory / name, (1, 1))

    def no_locks(*_arguments: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    load(pristine(bits=4))
    assert sorted(path.name for path in directory.glob(".*.tmp")) == [".b.json.2.tmp", ".b.safetensors.2.tmp"]


def test_a_lock_that_comes_too_late_would_be_noticed(directory) -> None:
    """No leftovers are removed between creating a file and locking it: both happen while the directory is locked."""
    directory.mkdir(parents=True)
    left = directory / ".a.safetensors.1.tmp"
    left.touch()
    holder = os.open(directory, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    cleaner = threading.Thread(target=remove_leftovers, args=[directory])
    cleaner.start()
    cleaner.join(0.2)
    assert cleaner.is_alive() and left.exists()
    os.close(holder)
    cleaner.join(5)
    assert not left.exists()


def writable(path: Path, mode: int) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) | mode)


@pytest.mark.parametrize("place", ["file", "packed", "cache"])
@pytest.mark.parametrize("mode", [stat.S_IWOTH, stat.S_IWGRP])
def test_what_others_could_have_written_is_not_used_and_this_is_told(pristine, directory, place, mode) -> None:
    if place == "cache" and os.getuid() != 0:
        pytest.skip("only root gives a directory to a group that it is not in")
    path = pristine(bits=4)
    right = logits(load(path))
    for file in files(directory):  # valid, but another user's: only ownership differs
        edit_tensors(file, lambda tensors: [tensor.zero_() for tensor in tensors.values()])
        file.chmod(0o600)
    assert not torch.equal(logits(load(path)), right)
    places = {"file": files(directory), "packed": [directory], "cache": [directory.parent]}[place]
    for one in places:
        if place == "cache":  # in a parent of the cache, the user's own group is not another user
            os.chown(one, -1, OTHERS_GROUP)
        writable(one, mode)
    with pytest.warns(
        CacheWarning, match=r"weight cache not used.*other users can write to .*; run chmod -R go-w on it"
    ):
        assert torch.equal(logits(load(path)), right)
    for one in places:
        one.chmod(stat.S_IMODE(one.stat().st_mode) & ~mode)
    assert not torch.equal(logits(load(path)), right)


def test_a_directory_of_all_users_is_none_for_packed_weights_even_if_sticky(pristine, directory) -> None:
    load(pristine(bits=4))
    directory.chmod(0o1777)
    with pytest.warns(CacheWarning, match="other users can write to"):
        load(pristine(bits=4))


def test_a_sticky_directory_above_and_a_group_of_ones_own_are_no_others(pristine, directory) -> None:
    path = pristine(bits=4)
    assert packings(path) > 0
    directory.parent.chmod(0o1777)
    os.chown(directory.parent.parent, -1, os.getgid())
    writable(directory.parent.parent, stat.S_IWGRP * is_own_group(os.getgid()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        assert packings(path) == 0


def test_a_remembered_hash_that_others_could_have_written_is_not_believed(pristine, directory) -> None:
    path = pristine(bits=4)
    load(path)
    (record,) = directory.glob("*.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0'))
    assert packings(path) > 0  # accepted: other names of files
    record.write_text(record.read_text().replace('"sha256": "', '"sha256": "1'))
    record.chmod(0o666)
    assert packings(path) == 0


def test_nobody_else_may_read_or_provide_a_cache(pristine, directory, monkeypatch) -> None:
    load(pristine(bits=4))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files(directory)} == {0o600}
    if os.getuid() == 0:
        for file in files(directory):
            os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.warns(CacheWarning, match="belongs to another user"):
        load(pristine(bits=4))


def test_a_broken_checkpoint_is_refused_as_without_a_cache(checkpoint: Copy, directory) -> None:
    path = checkpoint(bits=4)
    edit_tensors(
        path / "model.safetensors", lambda tensors: tensors["transformer.h.1.mlp.w2.scales"].fill_(float("nan"))
    )
    refused(path, "model.safetensors", "NaN", tensor="transformer.h.1.mlp.w2.scales", dtype="bf16")
    assert not files(directory)


def test_small_models_and_other_dtypes_keep_nothing(pristine, directory, monkeypatch) -> None:
    load_model(pristine(bits=4), dtype="fp32")
    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 2**20)
    load(pristine(bits=4))
    assert not directory.exists()
