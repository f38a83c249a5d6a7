"""`qwartet pull` and `qwartet verify` say what was compared, and claim no more."""

from __future__ import annotations

import json
from dataclasses import replace

from qwartet.hub.manifest import ManifestFile, manifest_of, write_manifest
from tests.cli.command_line import CommandLine
from tests.cli.test_model_store import BOTH, pulled
from tests.hub.fake_hub import COMMIT, NAME, SHARDS, TINY_MODEL, FakeHub
from tests.hub.test_unlisted_hashes import NO_HASH

SHARD = SHARDS[0]


@BOTH
def test_what_could_not_be_compared_is_told(hub: FakeHub, name: str, qwartet: CommandLine) -> None:
    hub.listed = {file: NO_HASH for file in TINY_MODEL if file not in ("config.json", SHARD)}
    outcome = qwartet("pull", name, "--revision", COMMIT)
    assert outcome.code == 0
    assert "warning: " in outcome.err and "the hub lists no hash for qwen.tiktoken, LICENSE" in outcome.err
    assert "2 verified by hash, 5 by size only; commit" in outcome.out and "every hash" not in outcome.out
    checked = qwartet("verify", name)
    assert checked.code == 0
    assert "note: the hub listed no hash of qwen.tiktoken, " in checked.out
    assert "; the one recorded was computed at download" in checked.out


def test_verify_says_what_it_compared_by_size_and_what_not_at_all(hub: FakeHub, qwartet: CommandLine) -> None:
    hub.listed = dict.fromkeys(TINY_MODEL, NO_HASH)
    manifest = manifest_of(pulled(qwartet, NAME))
    assert manifest is not None
    (manifest.directory / "model.safetensors").write_bytes(b"of somebody else")
    files = tuple(ManifestFile(file.name, file.size, "") for file in manifest.files)
    write_manifest(replace(manifest, files=files))
    outcome = qwartet("verify", NAME)
    assert outcome.code == 0 and "0 match the hashes recorded at download, 7 only the recorded size" in outcome.out
    assert "note: not compared, since no record lists them: model.safetensors" in outcome.out
    report = json.loads(qwartet("verify", NAME, "--json").out)
    assert (report["num_files"], report["num_by_hash"], report["uncompared"]) == (7, 0, ["model.safetensors"])


def test_a_snapshot_of_another_tool_says_what_has_no_hash(hub: FakeHub, qwartet: CommandLine) -> None:
    directory = pulled(qwartet, NAME)
    manifest = manifest_of(directory)
    assert manifest is not None
    manifest.path.unlink()
    content = (directory / SHARD).read_bytes()
    (directory / SHARD).unlink()
    (directory / SHARD).write_bytes(content)
    outcome = qwartet("verify", NAME)
    assert "6 files" in outcome.out and f"not compared, since no record lists them: {SHARD}" in outcome.out
