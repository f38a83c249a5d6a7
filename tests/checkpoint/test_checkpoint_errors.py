"""Inconsistent files and indexes: each is rejected before a tensor is used, with a message that helps.

The cases are numbered CK-01 to CK-13; those of the quantised weights and of config.json are in
test_quantized_checkpoint_errors.py.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.load import load_model
from tests.models.broken import (
    edit_header,
    edit_json,
    edit_tensors,
    join_file,
    logits,
    refused,
    set_tensor,
    split_file,
)
from tests.tiny_checkpoint import Copy

WTE = "transformer.wte.weight"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FETCH_AGAIN = "the download may be incomplete: fetch this file again"


@pytest.mark.parametrize("size", [0, 1, 7])
def test_ck01_a_file_shorter_than_its_first_field_is_no_safetensors_file(checkpoint: Copy, size: int) -> None:
    directory = checkpoint()
    os.truncate(directory / "model.safetensors", size)
    refused(directory, "model.safetensors", f"file is {size} bytes; not a safetensors file; {FETCH_AGAIN}")


@pytest.mark.parametrize("change", [-1, -1000, 1, 4096])
def test_ck02_a_shard_that_is_cut_or_has_bytes_too_many_is_named_with_both_sizes(checkpoint: Copy, change: int) -> None:
    directory = checkpoint(sharded=True)
    header, data = split_file(directory / SHARDS[1])
    os.truncate(directory / SHARDS[1], 8 + len(header) + len(data) + change)
    words = f"holds {len(data) + change} bytes of tensors; its header describes {len(data)}; {FETCH_AGAIN}"
    refused(directory, SHARDS[1], words)


def test_ck02_a_file_that_is_cut_within_its_header_is_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    os.truncate(directory / "model.safetensors", 100)
    refused(directory, "model.safetensors", "header claims", "bytes in a file of 100", FETCH_AGAIN)


@pytest.mark.parametrize("length", [16 * 2**20 + 1, 100_000_001, 2**63 - 1, 2**64 - 1])
def test_ck03_a_header_longer_than_any_models_is_refused_without_reading_it(checkpoint: Copy, length: int) -> None:
    directory = checkpoint()
    path = directory / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little"))
    os.truncate(path, 2**30)  # sparse: long enough for the shorter claims
    refused(directory, path.name, f"header claims {length} bytes in a file of {2**30}")


def write_torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"0" * 100)


@pytest.mark.parametrize(
    ("write", "hint"),
    [
        (write_torch_zip, "looks like a PyTorch pickle, which Qwartet never loads; convert it to safetensors"),
        (lambda path: path.write_bytes(pickle.dumps({"a": list(range(99))}, 2)), "looks like a PyTorch pickle"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "is a Git LFS pointer",
        ),
        (lambda path: path.write_text("<!DOCTYPE html><html><body>Not found</body></html>"), "looks like a web page"),
    ],
    ids=["zip", "pickle", "lfs", "html"],
)
def test_ck03_what_a_wrong_file_looks_like_is_said(checkpoint: Copy, write, hint: str) -> None:
    directory = checkpoint()
    write(directory / "model.safetensors")
    refused(directory, "model.safetensors", hint)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"' + WTE.encode() + b'": 1}',
        b"{} {}",
    ],
    ids=["cut", "list", "null", "not-utf8", "deep-lists", "deep-objects", "deep", "entry", "two-objects"],
)
def test_ck04_a_header_that_is_no_json_object_of_entries_is_refused(checkpoint: Copy, header: bytes) -> None:
    directory = checkpoint()
    _, data = split_file(directory / "model.safetensors")
    join_file(directory / "model.safetensors", header, data)
    is_entry = header.endswith(b": 1}")
    words = "header entry is not an object" if is_entry else "header is not"
    refused(directory, "model.safetensors", words, tensor=WTE if is_entry else None)


@pytest.mark.parametrize("metadata", [None, [], "", 5, {"format": 1}, {"format": None}, {"a": {}}], ids=str)
def test_ck04_metadata_that_is_no_object_of_texts_is_refused(checkpoint: Copy, metadata: object) -> None:
    directory = checkpoint()
    edit_header(directory / "model.safetensors", lambda header: header.update({"__metadata__": metadata}))
    refused(directory, "model.safetensors", "__metadata__ in the header is not an object of strings")


def test_ck04_numbers_that_only_python_calls_json_are_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    edit_header(directory / "model.safetensors", lambda header: header[WTE].update({"extra": float("nan")}))
    refused(directory, "model.safetensors", "header is not valid (NaN is not JSON)")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_offsets": [131072, 0]}, "span -131072 bytes; BF16 [512, 128] needs 131072"),
        ({"data_offsets": [-131072, 0]}, "are not two offsets"),
        ({"data_offsets": [0.0, 131072]}, "are not two offsets"),
        ({"data_offsets": [0]}, "are not two offsets"),
        ({"data_offsets": None}, "are not two offsets"),
        ({"shape": [512, 127]}, "BF16 [512, 127] needs"),
        ({"shape": [2**62, 2**62]}, "needs"),
        ({"shape": [-512, -128]}, "is not a list of sizes"),
        ({"shape": [512.0, 128]}, "is not a list of sizes"),
        ({"shape": [True] * 2}, "is not a list of sizes"),
        ({"shape": [1] * 1000}, "is not a list of sizes"),
        ({"shape": "512"}, "is not a list of sizes"),
        ({"dtype": "F32"}, "F32 [512, 128] needs 262144"),
        ({"dtype": "F17"}, "dtype F17 is unknown"),
        ({"dtype": ["F16"]}, "dtype ['F16'] is unknown"),
    ],
)
def test_ck05_an_entry_that_contradicts_itself_is_refused(checkpoint: Copy, changes: dict, words: str) -> None:
    directory = checkpoint()
    words = words.replace("131072", str(512 * 128 * 2)).replace("262144", str(512 * 128 * 4))
    changes = json.loads(json.dumps(changes).replace("131072", str(512 * 128 * 2)))
    edit_header(directory / "model.safetensors", lambda header: header[WTE].update(changes))
    refused(directory, "model.safetensors", words, tensor=WTE)


@pytest.mark.parametrize("shift", [-2, 2, 1000], ids=["overlap", "hole", "far"])
def test_ck05_tensors_that_overlap_or_leave_a_hole_are_refused(checkpoint: Copy, shift: int) -> None:
    directory = checkpoint()
    path = directory / "model.safetensors"
    begin, end = json.loads(split_file(path)[0])[WTE]["data_offsets"]
    edit_header(path, lambda header: header[WTE].update({"data_offsets": [begin + shift, end + shift]}))
    with pytest.raises(CheckpointError, match=r"data begins at byte \d+, but the previous tensor ends at \d+"):
        load_model(directory)


def test_ck06_a_tensor_that_the_header_names_twice_is_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    path = directory / "model.safetensors"
    header, data = split_file(path)
    entries = json.loads(header)
    text = json.dumps(entries)[:-1] + f', "{WTE}": {json.dumps(entries[WTE])}}}'
    join_file(path, text.encode(), data)
    refused(directory, path.name, f"header is not valid (key {WTE} appears twice)")


def test_ck06_a_header_with_very_many_keys_is_searched_in_linear_time(checkpoint: Copy) -> None:
    directory = checkpoint()
    keys = ", ".join(f'"{number}": 1' for number in range(200_000))
    join_file(directory / "model.safetensors", f'{{{keys}, "199999": 1}}'.encode(), b"")
    refused(directory, "model.safetensors", "key 199999 appears twice")


@pytest.mark.parametrize("name", ["/../../escape", "a\0b", "\x1b[31mred", "..\\x", "\u202e", "x" * 5000])
def test_ck07_a_tensor_with_a_hostile_name_is_not_used_and_shown_inert(checkpoint: Copy, name: str) -> None:
    directory = checkpoint()
    expected = logits(directory)
    edit_tensors(directory / "model.safetensors", lambda tensors: tensors.__setitem__(name, torch.ones(3)))
    with pytest.warns(CheckpointWarning, match="tensors that this model does not use, ignored: ") as caught:
        assert torch.equal(logits(directory), expected)
    assert all(str(warning.message).isprintable() and len(str(warning.message)) < 500 for warning in caught)


CHILD = """
import os, sys
from pathlib import Path
import torch
from qwartet.errors import CheckpointError
from qwartet.layers.dense_batch import dense_batch
from qwartet.checkpoint.shards import Checkpoint
from qwartet.models.load import load_model
directory, moment, load_mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
path = directory / "model.safetensors"
if moment == "reading":
    checkpoint = Checkpoint(directory, load_mode)
    checkpoint.read("lm_head.weight")
    os.truncate(path, 5000)
    try:
        checkpoint.read("transformer.wte.weight").sum()
    except CheckpointError as error:
        print(error.path == str(path), "changed from" in str(error))
else:
    model = load_model(directory, load_mode=load_mode)
    os.truncate(path, 5000)
    print(bool(model(dense_batch([[1, 2]], model.config.position)).isfinite().all()), True)
"""


@pytest.mark.parametrize(("moment", "load_mode"), [("reading", "pread"), ("reading", "mmap"), ("running", "pread")])
def test_ck08_a_file_that_shrinks_is_noticed_and_kills_nothing(checkpoint: Copy, moment: str, load_mode: str) -> None:
    command = [sys.executable, "-c", CHILD, str(checkpoint()), moment, load_mode]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "True True\n"), result.stderr


def test_ck09_missing_tensors_are_counted_and_the_first_ten_named(checkpoint: Copy) -> None:
    directory = checkpoint()
    set_tensor(directory / "model.safetensors", WTE, None)
    refused(directory, None, f"missing tensors: {WTE}; config.json and weights belong to different models")
    edit_json(directory / "config.json", {"num_hidden_layers": 4})
    layer = ("ln_1.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "ln_2.weight")
    layer += ("mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight")
    first = [WTE, *(f"transformer.h.2.{name}" for name in layer), "transformer.h.3.ln_1.weight"]
    refused(directory, None, f"missing tensors: {', '.join(first)} and 7 more")


def test_ck09_the_shard_that_should_hold_a_missing_tensor_is_named(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    set_tensor(directory / SHARDS[0], WTE, None)
    refused(directory, SHARDS[0], f"lacks {WTE}, which the index lists in it", "index and shards do not belong")


def test_ck09_swapped_shards_are_noticed(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    first, second = (directory / shard for shard in SHARDS)
    first.rename(directory / "tmp")
    second.rename(first)
    (directory / "tmp").rename(second)
    refused(directory, SHARDS[0], f"lacks {WTE}, ", "which the index lists in it")


def test_ck10_missing_shards_are_counted_and_named(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    (directory / SHARDS[1]).unlink()
    refused(directory, None, f"1 of 2 shards missing: {SHARDS[1]}; fetch them")


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_ck10_an_index_without_a_weight_map_is_refused(checkpoint: Copy, weight_map: object) -> None:
    directory = checkpoint(sharded=True)
    edit_json(directory / INDEX, {"weight_map": weight_map})
    refused(directory, INDEX, "has no weight_map; fetch this file again")


def test_ck10_shards_without_their_index_are_refused(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    (directory / INDEX).unlink()
    refused(directory, None, f"{SHARDS[0]}, {SHARDS[1]} without {INDEX}; fetch the index file too")


def test_ck10_a_total_size_that_is_wrong_is_told(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    expected = logits(directory)
    edit_json(directory / INDEX, {"metadata": {"total_size": 123}})
    with pytest.warns(CheckpointWarning, match=r"total_size is 123, the tensors take \d+ bytes"):
        assert torch.equal(logits(directory), expected)


def point_index_at(directory: Path, name: object) -> None:
    weight_map = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
    edit_json(directory / INDEX, {"weight_map": weight_map | {WTE: name}})


NAMES = [
    "../x.safetensors",
    "/x.safetensors",
    "a/x.safetensors",
    "..",
    "",
    "x",
    "x.bin",
    ".safetensors",
    "\0.safetensors",
]
NAMES += ["\ud800.safetensors", "y" * 300 + ".safetensors", "..\\x.safetensors", 5, None, ["x.safetensors"]]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_ck11_an_index_names_plain_safetensors_files_only(checkpoint: Copy, name: object) -> None:
    directory = checkpoint(sharded=True)
    shutil.copy(directory / SHARDS[0], directory.parent / "x.safetensors")
    point_index_at(directory, name)
    refused(directory, INDEX, "names the file", "which is not a plain name of a .safetensors file")


@pytest.mark.parametrize("sharded", [True, False])
def test_ck11_a_link_out_of_the_checkpoint_is_followed_and_one_in_a_circle_is_not(
    checkpoint: Copy, sharded: bool
) -> None:
    directory = checkpoint(sharded=sharded)
    expected = logits(directory)
    path = directory / (SHARDS[0] if sharded else "model.safetensors")
    path.rename(directory.parent / "outside.safetensors")
    path.symlink_to(directory.parent / "outside.safetensors")
    assert torch.equal(logits(directory), expected)
    path.unlink()
    path.symlink_to(path)
    refused(directory, path.name, "is a link that leads nowhere; fetch this file again")


@pytest.mark.parametrize("sharded", [True, False])
def test_ck11_the_links_of_a_hub_cache_are_followed(pristine, tmp_path: Path, sharded: bool) -> None:
    source = pristine(sharded=sharded)
    blobs, snapshot = tmp_path / "models--org--name" / "blobs", tmp_path / "models--org--name" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    assert torch.equal(logits(snapshot), logits(source))


def test_ck11_the_links_into_the_store_that_models_of_a_hub_cache_share_are_followed(pristine, tmp_path: Path) -> None:
    source, model = pristine(), tmp_path / "models--org--name"
    (model / "blobs").mkdir(parents=True)
    snapshot = model / "snapshots" / "0a1b"
    shutil.copytree(source, snapshot)
    store = tmp_path / "blobs" / "ab"
    store.mkdir(parents=True)
    (snapshot / "model.safetensors").rename(store / "abcd")
    (model / "blobs" / "0123").symlink_to(Path("..", "..", "blobs", "ab", "abcd"))
    (snapshot / "model.safetensors").symlink_to(Path("..", "..", "blobs", "0123"))
    assert torch.equal(logits(snapshot), logits(source))


def test_ck12_unknown_tensors_are_told_and_the_known_leftovers_are_not(checkpoint: Copy, recwarn) -> None:
    directory = checkpoint()
    leftovers = ("transformer.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias", "transformer.h.1.attn.bias")
    edit_tensors(directory / "model.safetensors", lambda t: t.update({name: torch.ones(2) for name in leftovers}))
    load_model(directory)
    assert not [warning for warning in recwarn if issubclass(warning.category, CheckpointWarning)]
    set_tensor(directory / "model.safetensors", "transformer.h.1.ln_9.weight", torch.ones(2))
    with pytest.warns(CheckpointWarning, match=r"that this model does not use, ignored: transformer\.h\.1\.ln_9"):
        load_model(directory)


def test_ck12_a_bias_of_the_output_layer_is_told_and_not_used(checkpoint: Copy) -> None:
    directory = checkpoint()
    expected = logits(directory)
    set_tensor(directory / "model.safetensors", "lm_head.bias", torch.ones(512))
    with pytest.warns(CheckpointWarning, match=r"tensors that this model does not use, ignored: lm_head\.bias"):
        assert torch.equal(logits(directory), expected)


def test_ck12_layers_beyond_those_of_the_config_are_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    edit_json(directory / "config.json", {"num_hidden_layers": 1})
    words = "num_hidden_layers is 1, but there are tensors of further layers: transformer.h.1.attn.c_attn.bias"
    refused(directory, None, words, "config.json belongs to another model")


def test_ck12_tensors_that_are_not_in_the_index_are_told(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    set_tensor(directory / SHARDS[0], "stray\x1b", torch.ones(2))
    with pytest.warns(CheckpointWarning, match=r"not in the index, ignored: 'stray\\x1b'"):
        load_model(directory)


@pytest.mark.parametrize(
    ("name", "shape", "want", "fields"),
    [
        (WTE, [500, 128], [512, 128], "vocab_size, hidden_size"),
        ("lm_head.weight", [512, 64], [512, 128], "vocab_size, hidden_size"),
        ("transformer.ln_f.weight", [1, 128], [128], "hidden_size"),
        ("transformer.h.0.attn.c_attn.weight", [128, 384], [384, 128], "3 * hidden_size, hidden_size"),
        ("transformer.h.0.attn.c_attn.bias", [128], [384], "3 * hidden_size, hidden_size"),
        ("transformer.h.1.mlp.w2.weight", [256, 128], [128, 128], "intermediate_size / 2, hidden_size"),
        ("transformer.h.1.mlp.c_proj.weight", [128, 0], [128, 128], "hidden_size, intermediate_size / 2"),
    ],
)
def test_ck13_a_wrong_shape_is_named_beside_the_fields_that_imply_another(
    checkpoint: Copy, name: str, shape: list[int], want: list[int], fields: str
) -> None:
    directory = checkpoint()
    set_tensor(directory / "model.safetensors", name, torch.ones(shape))
    refused(directory, "model.safetensors", f"shape is {shape}; config.json implies {want} ({fields})", tensor=name)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.uint8, torch.bool])
def test_a_float_tensor_of_another_kind_is_refused(checkpoint: Copy, dtype: torch.dtype) -> None:
    directory = checkpoint()
    set_tensor(directory / "model.safetensors", "transformer.ln_f.weight", torch.ones(128, dtype=dtype))
    words = "it must be BF16, F16 or F32"
    refused(directory, "model.safetensors", words, tensor="transformer.ln_f.weight")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pytorch_model.bin", "holds only pickled weights, which can run code when loaded; Qwartet never loads them"),
        ("notes.txt", "holds no .safetensors file; is this a checkpoint directory?"),
    ],
)
def test_a_directory_without_safetensors_is_refused(checkpoint: Copy, file: str, words: str) -> None:
    directory = checkpoint()
    (directory / "model.safetensors").rename(directory / file)
    refused(directory, None, words)


def test_a_file_that_may_not_be_read_is_refused(checkpoint: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint()

    really_open = Path.open

    def denied(path: Path, *args, **settings):
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return really_open(path, *args, **settings)

    monkeypatch.setattr(Path, "open", denied)  # chmod would not stop a superuser
    refused(directory, "model.safetensors", "cannot be read (Permission denied)")


def test_data_that_an_odd_header_leaves_unaligned_is_read_all_the_same(checkpoint: Copy) -> None:
    directory = checkpoint()
    expected = logits(directory)
    header, data = split_file(directory / "model.safetensors")
    join_file(directory / "model.safetensors", header + b" " * (8 - len(header) % 8 + 1), data)
    model = load_model(directory)
    assert all(parameter.data_ptr() % parameter.element_size() == 0 for parameter in model.parameters())
    assert torch.equal(logits(directory), expected)


def test_a_single_file_may_have_another_name(checkpoint: Copy) -> None:
    directory = checkpoint()
    expected = logits(directory)
    (directory / "model.safetensors").rename(directory / "gptq_model-4bit-128g.safetensors")
    assert torch.equal(logits(directory), expected)


def test_a_file_replaced_between_the_check_and_the_read_is_refused(checkpoint: Copy) -> None:
    from qwartet.checkpoint.shards import Checkpoint

    directory = checkpoint()
    opened = Checkpoint(directory)
    save_file({WTE: torch.ones(2, 2)}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        opened.read(WTE)
