"""`qwartet pull`, `list`, `show`, `verify`, `rm`: the life of a model on this machine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from qwartet.files import cache_directory
from qwartet.hub.manifest import read_manifests
from tests.cli.command_line import CommandLine, listing
from tests.hub.fake_hub import COMMIT, NAME, SHARDS, TINY_MODEL, FakeHub, sha256
from tests.tiny_checkpoint import write_tiny_checkpoint

SHARD = SHARDS[0]
TOTAL = sum(map(len, TINY_MODEL.values()))
BOTH = pytest.mark.parametrize("name", [NAME, f"modelscope:{NAME}"])


def pulled(qwartet: CommandLine, *arguments: str) -> Path:
    """Directory of a model that was just pulled."""
    outcome = qwartet("pull", *arguments, "--json")
    assert outcome.code == 0, outcome
    return Path(json.loads(outcome.out)["directory"])


def listed(qwartet: CommandLine) -> dict[str, dict]:
    return {model["name"]: model for model in json.loads(qwartet("list", "--json").out)["models"]}


def flip_a_bit(path: Path) -> None:
    """As a failing disk does: size and times stay."""
    path, times = path.resolve(), path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@BOTH
def test_pull_says_what_came_and_where_it_is(hub: FakeHub, qwartet: CommandLine, name: str) -> None:
    outcome = qwartet("pull", name)
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 1
    assert f"{name}: 7 files, 175 KiB, all downloaded, all hashes verified; commit {COMMIT}; in /" in outcome.out
    assert "175 KiB of 175 KiB downloaded" in outcome.err
    again = qwartet("pull", name)
    assert "7 files, 175 KiB, already complete, all hashes verified at the download" in again.out


def test_the_hub_may_be_an_option_and_the_revision_too(hub: FakeHub, qwartet: CommandLine, tmp_path: Path) -> None:
    directory = pulled(qwartet, NAME, "--source", "modelscope", "--revision", "v1")
    assert directory.is_relative_to(tmp_path / "modelscope")
    (record,) = read_manifests()
    assert record.revision == "v1"


def test_pull_reports_every_hash(hub: FakeHub, qwartet: CommandLine) -> None:
    report = json.loads(qwartet("pull", NAME, "--json").out)
    assert {file["name"]: file["sha256"] for file in report["files"]} == {
        name: sha256(content) for name, content in TINY_MODEL.items()
    }
    assert (report["hub"], report["commit"], report["bytes"], report["fetched_files"]) == ("hf", COMMIT, TOTAL, 7)


@pytest.mark.parametrize("name", ["../x", "a/b/c", "", "two words", "x\x1b[31m", "ollama:a/b"])
def test_pull_refuses_what_is_no_id(hub: FakeHub, qwartet: CommandLine, name: str) -> None:
    qwartet("pull", name).assert_one_line_error("is not a hub id")
    assert hub.num_requests == 0


def test_pull_asks_whether_a_published_model_was_meant(hub: FakeHub, qwartet: CommandLine) -> None:
    qwartet("pull", "Qwen/Qwen-7B-Caht").assert_one_line_error("no such model", "did you mean Qwen/Qwen-7B-Chat")


def test_list_shows_the_bundled_model_without_any_cache(qwartet: CommandLine, hub: FakeHub) -> None:
    outcome = qwartet("list")
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.out.splitlines()[1].startswith("(bundled)  Qwen chat, int4")
    assert qwartet("ls").out == outcome.out and hub.num_requests == 0


@BOTH
def test_list_shows_what_was_pulled(hub: FakeHub, qwartet: CommandLine, name: str) -> None:
    pulled(qwartet, name)
    num_requests = hub.num_requests
    model = listed(qwartet)[name]
    assert (model["state"], model["bytes"], model["commit"]) == ("complete", TOTAL, COMMIT)
    assert (model["size"], model["precision"], model["is_chat"]) == ("7b", "bf16", True)
    row = qwartet("list").out.splitlines()[2]
    assert row.startswith(f"{name}  Qwen 7b chat, bf16  175 KiB") and row.endswith("complete")
    assert hub.num_requests == num_requests


@BOTH
def test_list_shows_how_much_of_a_download_is_here(hub: FakeHub, qwartet: CommandLine, name: str) -> None:
    hub.faults[SHARD] = ["cut", *["503"] * 5]
    assert qwartet("pull", name).code == 2
    model = listed(qwartet)[name]
    assert model["state"] == "partial" and model["expected_bytes"] == TOTAL
    assert len(TINY_MODEL[SHARD]) // 2 <= model["bytes"] < TOTAL
    assert "partial: " in qwartet("list").out and "of 175 KiB" in qwartet("list").out


def test_list_shows_what_other_tools_left_and_passes_over_other_families(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path
) -> None:
    directory = pulled(qwartet, NAME)
    shutil.rmtree(tmp_path / "qwartet")
    other = tmp_path / "hf" / "models--a--b" / "snapshots" / COMMIT
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "hf" / "models--a--c" / "snapshots").mkdir(parents=True)
    (tmp_path / "hf" / "datasets--a--b").mkdir()
    (tmp_path / "hf" / "models--a--b" / "refs").write_text("a file where a directory should be")
    assert listed(qwartet).keys() == {"(bundled)", NAME}
    (directory / SHARD).unlink()
    assert listed(qwartet)[NAME]["state"] == "partial"


def test_list_reads_no_weights_and_loads_no_torch(hub: FakeHub, qwartet: CommandLine, tmp_path: Path) -> None:
    directory = pulled(qwartet, NAME)
    (directory / SHARD).resolve().chmod(0)
    import subprocess

    code = "import sys; from qwartet.cli.main import run; run(['list']); print('torch' in sys.modules, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hf"), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert NAME in result.stdout and result.stderr == "False\n"


@BOTH
def test_show_tells_source_commit_hashes_and_licence(hub: FakeHub, qwartet: CommandLine, name: str) -> None:
    pulled(qwartet, name)
    outcome = qwartet("show", name)
    assert outcome.code == 0 and outcome.out.splitlines()[0] == name
    assert f"commit {COMMIT}" in outcome.out and hub.endpoint in outcome.out
    assert "SHA-256 of 7 files at 20" in outcome.out
    assert "licence    LICENSE" in outcome.out
    report = json.loads(qwartet("show", name, "--json").out)
    assert {file["name"]: file["sha256"] for file in report["files"]}[SHARD] == sha256(TINY_MODEL[SHARD])


def test_show_tells_what_a_checkpoint_is_in_the_words_of_inspect(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", bits=4)
    shown, inspected = qwartet("show", directory).out, qwartet("inspect", directory).out
    for label in ("model", "positions", "kind"):
        (line,) = (line.split(maxsplit=1)[1] for line in inspected.splitlines() if line.split()[0] == label)
        assert line in shown
    assert "GPTQ, 4 bits, groups of 128, symmetric, desc_act false" in shown
    assert "no hashes, since qwartet pull did not download it" in shown


def test_show_without_a_name_is_the_bundled_model(qwartet: CommandLine) -> None:
    outcome = qwartet("show")
    assert outcome.out.startswith("(bundled)\n") and "that of Qwartet" in outcome.out


def test_show_of_no_checkpoint_says_so(qwartet: CommandLine, tmp_path: Path, hub: FakeHub) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    qwartet("show", empty).assert_one_line_error("config.json", "file is missing")
    pulled(qwartet, NAME)
    qwartet("show", NAME + "s").assert_one_line_error("not on this machine", f"did you mean {NAME}?")


@BOTH
def test_sec_24_verify_finds_a_flipped_bit_names_the_file_and_pull_repairs_it(
    hub: FakeHub, qwartet: CommandLine, name: str
) -> None:
    directory = pulled(qwartet, name)
    sound = qwartet("verify", name)
    assert sound.code == 0 and f"{name}, commit {COMMIT}: 7 files, 175 KiB, all match the hashes recorded" in sound.out
    assert "175 KiB of 175 KiB checked" in sound.err
    flip_a_bit(directory / SHARD)
    broken = qwartet("verify", name)
    assert broken.code == 2
    problem, summary = broken.out.splitlines()
    assert problem.startswith(f"problem: {SHARD}: does not have its recorded hash")
    assert "1 of 7 files do not match the hashes recorded" in summary
    assert summary.endswith(f"; download them again: qwartet pull {name}")
    report = json.loads(qwartet("verify", name, "--json").out)
    assert report["against"] == "manifest" and len(report["problems"]) == 1
    hub.downloads.clear()
    assert qwartet("pull", name).code == 0
    assert [file for file, _ in hub.downloads] == [SHARD], "only what is damaged is fetched"
    assert qwartet("verify", name).code == 0


def test_sec_24_a_model_that_was_found_damaged_is_not_loaded_from_the_cache(
    hub: FakeHub, qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = pulled(qwartet, NAME)
    flip_a_bit(directory / SHARD)
    assert qwartet("verify", NAME).code == 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    qwartet("inspect", NAME).assert_one_line_error("has no complete copy")


def test_verify_names_every_file_that_is_missing_short_or_changed(hub: FakeHub, qwartet: CommandLine) -> None:
    directory = pulled(qwartet, NAME)
    (directory / "config.json").unlink()
    flip_a_bit(directory / "generation_config.json")
    with (directory / SHARD).resolve().open("ab") as file:
        file.write(b"x")
    outcome = qwartet("verify", directory)
    assert outcome.code == 2
    problems = sorted(line.removeprefix("problem: ") for line in outcome.out.splitlines() if line.startswith("problem"))
    names = [
        "config.json: is missing",
        "generation_config.json: does not have",
        f"{SHARD}: has 102401 bytes, not 102400",
    ]
    assert [problem[: len(name)] for problem, name in zip(problems, names, strict=True)] == names


def test_verify_without_a_record_takes_the_hashes_of_the_hubs_cache(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path
) -> None:
    directory = pulled(qwartet, NAME)
    shutil.rmtree(tmp_path / "qwartet")
    assert "all match the hashes in the hub cache" in qwartet("verify", NAME).out
    flip_a_bit(directory / "config.json")
    flip_a_bit(directory / SHARD)
    outcome = qwartet("verify", NAME)
    assert outcome.code == 2 and outcome.out.count("problem: ") == 2
    (directory / SHARD).unlink()
    assert "config and weights: are incomplete" in qwartet("verify", NAME).out


def test_verify_of_a_directory_says_that_nothing_was_recorded_and_what_was_looked_at(
    qwartet: CommandLine, tmp_path: Path
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    outcome = qwartet("verify", directory)
    assert outcome.code == 0 and "no hashes are recorded, so changed weights cannot be detected" in outcome.out
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    outcome = qwartet("verify", directory)
    assert outcome.code == 2 and "problem: " in outcome.out


@BOTH
def test_rm_removes_the_model_and_its_record_and_nothing_else(hub: FakeHub, qwartet: CommandLine, name: str) -> None:
    hub.repositories["Somebody/Other"] = TINY_MODEL
    other = name.replace(NAME, "Somebody/Other")
    kept = pulled(qwartet, other)
    before = listing(kept)
    directory = pulled(qwartet, name)
    outcome = qwartet("rm", name, "--yes")
    assert outcome.code == 0
    assert outcome.out == f"removed: {name}, commit {COMMIT}: 175 KiB in {directory}\n"
    assert not directory.parent.parent.exists() and listing(kept) == before
    assert listed(qwartet).keys() == {"(bundled)", other}
    assert [record.repository.name for record in read_manifests()] == ["Somebody/Other"]
    qwartet("rm", name, "--yes").assert_one_line_error("not on this machine")


def test_rm_leaves_copies_of_the_model_that_have_the_same_commit(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path
) -> None:
    storage = pulled(qwartet, NAME).parent.parent
    copies = [storage.with_name(f"models--Somebody--Copy{number}") for number in range(20)]
    for copy in copies:
        shutil.copytree(storage, copy, symlinks=True)
    assert qwartet("rm", NAME, "--yes").code == 0
    assert not storage.exists() and all((copy / "snapshots" / COMMIT / SHARD).is_file() for copy in copies)


@BOTH
def test_rm_of_a_revision_leaves_the_others(hub: FakeHub, qwartet: CommandLine, name: str) -> None:
    old = pulled(qwartet, name)
    hub.commit = COMMIT[::-1]
    hub.repositories[NAME] = {**TINY_MODEL, SHARD: b"new weights"}
    new = pulled(qwartet, name)
    assert qwartet("show", name).out.count("also on this machine: commit") == 1
    assert qwartet("rm", name, "--revision", COMMIT[:10], "--yes").code == 0
    assert not old.exists() and (new / SHARD).read_bytes() == b"new weights"
    assert (new / SHARDS[1]).read_bytes() == TINY_MODEL[SHARDS[1]], "what both had in common stays"
    assert qwartet("verify", name).code == 0
    assert qwartet("rm", name, "-y").code == 0 and not new.exists()


@BOTH
def test_rm_removes_what_an_unfinished_download_left(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path, name: str
) -> None:
    hub.faults[SHARD] = ["cut", *["503"] * 5]
    assert qwartet("pull", name).code == 2
    assert list(tmp_path.rglob("*.incomplete"))
    assert qwartet("rm", name, "--yes").code == 0
    assert not list(tmp_path.rglob("*.incomplete")) and not list(tmp_path.rglob("*.safetensors"))


def test_rm_asks_and_takes_only_yes_for_yes(
    hub: FakeHub, qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = pulled(qwartet, NAME)
    qwartet("rm", NAME).assert_one_line_error("would be removed", "pass --yes")
    for answer in ("", "n\n", "\n", "yesterday\n"):
        monkeypatch.setattr(sys, "stdin", _Typed(answer))
        outcome = qwartet("rm", NAME)
        assert outcome.out == "" and f"remove {NAME}, commit {COMMIT}: 175 KiB in {directory}? [y/N]" in outcome.err
        assert directory.is_dir()
    monkeypatch.setattr(sys, "stdin", _Typed("y\n"))
    assert qwartet("rm", NAME).code == 0 and not directory.exists()


class _Typed:
    """A terminal at which this line is typed."""

    def __init__(self, line: str) -> None:
        self._line = line

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._line


def test_rm_never_touches_a_directory_outside_the_caches(qwartet: CommandLine, tmp_path: Path, hub: FakeHub) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    before = listing(directory)
    qwartet("rm", directory, "--yes").assert_one_line_error("is not in a hub's cache")
    assert listing(directory) == before


def test_rm_through_a_link_out_of_the_cache_removes_nothing_there(
    qwartet: CommandLine, tmp_path: Path, hub: FakeHub
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    before = listing(directory)
    owner = tmp_path / "modelscope" / "models" / "a--b" / "snapshots"
    owner.mkdir(parents=True)
    (owner / "master").symlink_to(directory)
    qwartet("rm", "modelscope:a/b", "--yes").assert_one_line_error("is outside", "remove it yourself")
    assert listing(directory) == before


def test_rm_removes_the_packed_weights_of_the_model_and_of_no_other(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwartet.checkpoint import weight_cache
    from qwartet.models.load import load_model

    monkeypatch.setattr(weight_cache, "LEAST_BYTES", 0)
    for name, seed in ((NAME, 1), ("Somebody/Other", 2)):
        made = write_tiny_checkpoint(tmp_path / name, bits=4, seed=seed)
        hub.repositories[name] = {path.name: path.read_bytes() for path in made.iterdir()}
    model, other = pulled(qwartet, NAME), pulled(qwartet, "Somebody/Other")
    load_model(other)
    kept = set(listing(cache_directory() / "packed"))
    load_model(model)
    packed = set(listing(cache_directory() / "packed")) - kept
    if not packed:
        pytest.skip("no native kernels here, so nothing is packed")
    assert any(name.endswith(".safetensors") for name in packed)
    assert qwartet("rm", NAME, "--yes").code == 0
    assert set(listing(cache_directory() / "packed")) == kept


def test_a_pulled_model_is_what_chat_would_load(hub: FakeHub, qwartet: CommandLine, tmp_path: Path) -> None:
    made = write_tiny_checkpoint(tmp_path / "source", bits=4)
    hub.repositories[NAME] = {path.name: path.read_bytes() for path in made.iterdir()}
    outcome = qwartet("chat", f"modelscope:{NAME}", "--prompt", "hello", "--max-tokens", "2")
    assert outcome.code == 0, outcome
    directory = pulled(qwartet, f"modelscope:{NAME}")
    assert load_file(directory / "model.safetensors").keys() == load_file(made / "model.safetensors").keys()
