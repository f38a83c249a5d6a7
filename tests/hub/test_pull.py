"""A model is fetched whole and unharmed, or not at all, whatever the hub, the connection and the disk do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from qwartet.errors import (
    CheckpointError,
    DownloadError,
    DownloadWarning,
    ModelNotFoundError,
    QwartetError,
    SettingError,
)
from qwartet.hub import fetch, pull
from qwartet.hub.listing import RemoteFile
from qwartet.hub.manifest import read_manifests
from qwartet.hub.pull import Pulled, pull_model
from qwartet.hub.repository import Repository
from tests.golden_data import REPOSITORY
from tests.hub.fake_hub import COMMIT, NAME, SHARDS, TINY_MODEL, UNWANTED, FakeHub, sha256

HF = Repository("hf", NAME)
MODELSCOPE = Repository("modelscope", NAME)
BOTH = pytest.mark.parametrize("repository", [HF, MODELSCOPE], ids=["hf", "modelscope"])
SHARD = SHARDS[0]
SIZE = len(TINY_MODEL[SHARD])


def fetched(repository: Repository = HF, revision: str | None = None) -> Pulled:
    """What a pull did, heard by nobody."""
    return pull_model(repository, revision, on_bytes=lambda count, total: None)


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def named_files(workplace: Path) -> list[bytes]:
    """The content of everything below a directory that has a name of its own."""
    return [path.read_bytes() for path in workplace.rglob("*") if path.is_file() and path.suffix != ".incomplete"]


def refusal(error_type: type[QwartetError], repository: Repository = HF) -> str:
    """The one line that a pull ends with."""
    with pytest.raises(error_type) as caught:
        fetched(repository)
    text = str(caught.value)
    assert "\n" not in text and "; " in text, text
    return text


def asked_ranges(hub: FakeHub, name: str = SHARD) -> list[str | None]:
    return [wanted for file, wanted in hub.downloads if file == name]


@BOTH
def test_data_and_the_licence_are_fetched_and_code_pickles_and_folders_are_not(
    hub: FakeHub, repository: Repository
) -> None:
    pulled = fetched(repository)
    assert files_of(pulled.manifest.directory) == TINY_MODEL
    assert {name for name, _ in hub.downloads} == TINY_MODEL.keys()
    assert pulled.num_fetched == len(TINY_MODEL)


@BOTH
def test_sec_24_commit_size_and_sha256_of_every_file_are_recorded(hub: FakeHub, repository: Repository) -> None:
    pulled = fetched(repository)
    (record,) = read_manifests()
    assert record == pulled.manifest and record.is_complete
    assert (record.commit, record.endpoint, record.repository) == (COMMIT, hub.endpoint, repository)
    expected = {name: (len(content), sha256(content)) for name, content in TINY_MODEL.items()}
    assert {file.name: (file.size, file.sha256) for file in record.files} == expected


def test_other_tools_find_the_model_in_their_cache(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

    directory = fetched().manifest.directory
    assert Path(snapshot_download(NAME, cache_dir=tmp_path / "hf", local_files_only=True)) == directory
    config = hf_hub_download(NAME, "config.json", cache_dir=tmp_path / "hf", local_files_only=True)
    assert Path(config) == directory / "config.json"
    found = scan_cache_dir(tmp_path / "hf")
    assert not found.warnings and [repo.repo_id for repo in found.repos] == [NAME]


@BOTH
def test_a_second_pull_fetches_nothing(hub: FakeHub, repository: Repository) -> None:
    first = fetched(repository).manifest
    hub.downloads.clear()
    second = fetched(repository)
    assert (second.num_fetched, hub.downloads) == (0, [])
    assert second.manifest == first


@BOTH
def test_a_new_commit_of_a_branch_is_fetched_beside_the_old_one(hub: FakeHub, repository: Repository) -> None:
    old = fetched(repository).manifest
    hub.commit = COMMIT[::-1]
    hub.repositories[NAME][SHARD] = b"new weights"
    new = fetched(repository).manifest
    assert files_of(new.directory)[SHARD] == b"new weights"
    assert files_of(old.directory) == TINY_MODEL
    assert (new.commit, old.commit) == (COMMIT[::-1], COMMIT)


@BOTH
def test_progress_counts_every_byte_once(hub: FakeHub, repository: Repository) -> None:
    hub.faults[SHARD] = ["cut", "extra", "flip"]
    heard = []
    with pytest.warns(DownloadWarning):
        pull_model(repository, on_bytes=lambda count, total: heard.append((count, total)))
    total = sum(map(len, TINY_MODEL.values()))
    assert {of for _, of in heard} == {total}
    assert sum(count for count, _ in heard) == total


@BOTH
@pytest.mark.parametrize("status", ["500", "503", "429", "408"])
def test_rel_20_a_busy_hub_is_asked_again(hub: FakeHub, repository: Repository, status: str) -> None:
    hub.faults = {"listing": [status], SHARD: [status, status]}
    with pytest.warns(DownloadWarning, match=rf"status {status} .*; trying again in 0 s"):
        pulled = fetched(repository)
    assert files_of(pulled.manifest.directory) == TINY_MODEL
    assert asked_ranges(hub) == [None] * 3


def test_rel_20_a_hub_that_stays_busy_is_given_up_with_advice(hub: FakeHub) -> None:
    hub.faults[SHARD] = ["503"] * 20
    with pytest.warns(DownloadWarning):
        text = refusal(DownloadError)
    assert f"{NAME}: {SHARD}: download from {hub.host} (set by HF_ENDPOINT) failed (status 503 " in text
    assert ", 6 attempts); partial downloads are kept: run the command again, fix or unset HF_ENDPOINT, or use " in text
    assert len(asked_ranges(hub)) == 6


class Waits(threading.Event):
    """Notes how long it was to be waited for, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return False


class Busy(Exception):
    """An answer that says when to come again."""

    def __init__(self, retry_after: str) -> None:
        content = {"headers": {"Retry-After": retry_after}, "status_code": 429, "reason_phrase": "Too Many Requests"}
        self.response = type("Response", (), content)()


@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
def test_rel_20_the_pauses_grow_and_heed_what_the_hub_asks_for_within_a_bound() -> None:
    stop = Waits()
    for number in range(len(fetch.PAUSES_S)):
        fetch._pause(number, ConnectionError(), "x", stop)
    for asked in ("30", "86400", "soon", "-1", "9" * 50):
        fetch._pause(0, Busy(asked), "x", stop)
    assert stop.pauses == [1, 2, 4, 8, 16, 30, fetch.LONGEST_PAUSE_S, 1, 1, 1]


@BOTH
def test_rel_20_a_connection_that_is_cut_is_resumed_where_it_broke(hub: FakeHub, repository: Repository) -> None:
    hub.faults[SHARD] = ["cut", "cut"]
    with pytest.warns(DownloadWarning):
        pulled = fetched(repository)
    assert files_of(pulled.manifest.directory) == TINY_MODEL
    assert asked_ranges(hub) == [None, f"bytes={SIZE // 2}-", f"bytes={SIZE // 2 + SIZE // 4}-"]


@BOTH
def test_rel_20_the_next_run_asks_only_for_the_bytes_that_are_missing(hub: FakeHub, repository: Repository) -> None:
    hub.faults[SHARD] = ["cut", *["503"] * 5]
    with pytest.warns(DownloadWarning):
        refusal(DownloadError, repository)
    hub.downloads.clear()
    assert files_of(fetched(repository).manifest.directory) == TINY_MODEL
    assert asked_ranges(hub) == [f"bytes={SIZE // 2}-"]
    assert not [name for name, _ in hub.downloads if not name.endswith(".safetensors")], "what was right is kept"


@BOTH
@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
@pytest.mark.parametrize("fault", ["long", "short", "extra"])
def test_rel_20_a_wrong_content_length_does_no_harm(hub: FakeHub, repository: Repository, fault: str) -> None:
    hub.faults[SHARD] = [fault]
    assert files_of(fetched(repository).manifest.directory) == TINY_MODEL


def test_rel_20_a_hub_that_always_sends_too_much_is_given_up(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[SHARD] = ["extra"] * 20
    with pytest.warns(DownloadWarning):
        text = refusal(DownloadError)
    assert f"the hub sent more than the listed {SIZE} bytes, 6 attempts" in text
    assert not [content for content in named_files(tmp_path) if content.endswith(b"more")]


@BOTH
@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_rel_20_wrong_bytes_never_get_the_name_of_the_file(
    hub: FakeHub, repository: Repository, tmp_path: Path, name: str
) -> None:
    hub.faults[name] = ["flip", "flip"]
    with pytest.warns(DownloadWarning, match="wrong hash, not the one that the hub lists; downloading it again"):
        text = refusal(DownloadError, repository)
    assert f"{repository}: {name}: wrong hash twice, not the one that the hub lists" in text
    wrong = TINY_MODEL[name][:-1] + bytes([TINY_MODEL[name][-1] ^ 1])
    assert wrong not in named_files(tmp_path)
    (record,) = read_manifests()
    assert record.finished_at is None
    assert files_of(fetched(repository).manifest.directory) == TINY_MODEL, "and the next run begins the file anew"


def test_rel_20_wrong_bytes_that_were_gathered_by_an_earlier_run_are_found_and_fetched_again(
    hub: FakeHub, tmp_path: Path
) -> None:
    content = TINY_MODEL[SHARD]
    storage = tmp_path / "hf" / f"models--{NAME.replace('/', '--')}" / "blobs"
    storage.mkdir(parents=True)
    (storage / f"{sha256(content)}.incomplete").write_bytes(b"\0" * 1000)
    with pytest.warns(DownloadWarning, match="wrong hash"):
        pulled = fetched()
    assert files_of(pulled.manifest.directory) == TINY_MODEL
    assert asked_ranges(hub) == ["bytes=1000-", None]


def test_rel_20_a_gathered_file_that_is_too_long_is_thrown_away(hub: FakeHub, tmp_path: Path) -> None:
    storage = tmp_path / "hf" / f"models--{NAME.replace('/', '--')}" / "blobs"
    storage.mkdir(parents=True)
    (storage / f"{sha256(TINY_MODEL[SHARD])}.incomplete").write_bytes(b"\0" * (SIZE + 1))
    assert files_of(fetched().manifest.directory) == TINY_MODEL
    assert asked_ranges(hub) == [None]


@pytest.mark.parametrize("where", ["listing", SHARD])
def test_rel_20_a_redirect_in_a_circle_ends(hub: FakeHub, where: str) -> None:
    hub.faults[where] = ["loop"] * 100
    text = refusal(ModelNotFoundError)
    assert "TooManyRedirects" in text
    assert hub.num_requests < 40


def test_rel_20_a_gated_or_closed_model_says_what_opens_it(hub: FakeHub) -> None:
    hub.faults = {"listing": ["gated", "401", "404"]}
    gated = "gated model; accept its terms on the model's page, then set HF_TOKEN"
    assert refusal(ModelNotFoundError).endswith(gated)
    assert "denies access (401); set HF_TOKEN, or check the spelling" in refusal(ModelNotFoundError)
    assert "no such model on" in refusal(ModelNotFoundError)
    hub.faults = {"listing": ["403"]}
    assert "(403); set MODELSCOPE_API_TOKEN" in refusal(ModelNotFoundError, MODELSCOPE)


def test_rel_20_an_unknown_model_or_revision_says_so(hub: FakeHub) -> None:
    for repository in (HF, MODELSCOPE):
        unknown = Repository(repository.hub, "Somebody/Nothing")
        assert f"no such model on {hub.endpoint}; check the spelling" in refusal(ModelNotFoundError, unknown)
        with pytest.raises(
            ModelNotFoundError, match=r"no revision 'v9' on the hub; pass a branch, a tag or a full commit"
        ):
            fetched(repository, "v9")


def test_rel_19_a_full_disk_is_seen_beforehand_with_both_figures(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**8))
    hub.listed[SHARD] = {"size": 41_200_000_000, "lfs": {"sha256": "0" * 64, "size": 0, "pointerSize": 1}}
    text = refusal(SettingError)
    assert "needs 41.2 GB, but only 0.1 GB are free there; free some, set HF_HOME to a larger disk" in text
    assert hub.downloads == []


def test_rel_19_what_is_here_already_needs_no_space(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub.repositories[NAME][SHARDS[1]]  # else it is not known how much of it comes before the other is given up
    hub.faults[SHARD] = ["cut", *["503"] * 5]
    with pytest.warns(DownloadWarning):
        refusal(DownloadError)
    usage, missing = shutil.disk_usage("/"), SIZE - SIZE // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=missing - 1))
    refusal(SettingError)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=missing))
    assert files_of(fetched().manifest.directory)[SHARD] == TINY_MODEL[SHARD]


@BOTH
def test_rel_19_a_disk_that_fills_up_on_the_way_says_so_and_keeps_what_came(
    hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwartet.hub.fetch.os.fsync", sync)
    text = refusal(DownloadError, repository)
    variable = "HF_HOME" if repository is HF else "MODELSCOPE_CACHE"
    assert "no space left in" in text and f"free some, or set {variable} to a larger disk" in text
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("readonly", "variable"), [("hf", "HF_HOME"), ("modelscope", "MODELSCOPE_CACHE"), ("qwartet", "QWARTET_CACHE")]
)
def test_rel_19_a_directory_that_cannot_be_written_is_named_with_its_variable(
    hub: FakeHub, tmp_path: Path, readonly: str, variable: str
) -> None:
    (tmp_path / readonly).touch()  # a file where a directory should be: refused to root, too
    text = refusal(DownloadError, MODELSCOPE if readonly == "modelscope" else HF)
    assert f"{tmp_path / readonly} cannot be written" in text and f"set {variable} to a writable directory" in text
    assert hub.downloads == []


@BOTH
def test_rel_19_offline_no_connection_is_tried(
    hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, and the cache (" in refusal(ModelNotFoundError, repository)
    assert hub.num_requests == 0


def test_another_family_is_known_before_its_weights_are_fetched(hub: FakeHub) -> None:
    hub.repositories[NAME]["config.json"] = b'{"model_type": "llama"}'
    text = refusal(CheckpointError)
    assert "model_type is 'llama'; Qwartet runs dense Qwen text models" in text
    assert asked_ranges(hub) == []


def test_a_model_without_safetensors_is_refused_before_anything_is_fetched(hub: FakeHub) -> None:
    hub.repositories[NAME] = {"config.json": TINY_MODEL["config.json"], **UNWANTED}
    assert "has no .safetensors files, and Qwartet loads no others" in refusal(ModelNotFoundError)
    assert hub.downloads == []


HOSTILE_NAMES = [
    "../config.json", "/etc/config.json", "a/../../config.json", "..", ".", "", "a//config.json", "C:\\x.json",
    "C:x.json", "..\\x.json", "x\0.json", "x\x1b[31m.json", "x\n.json",
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_sec_15_a_name_that_leads_out_of_the_directory_condemns_the_listing(
    hub: FakeHub, repository: Repository, tmp_path: Path, name: str
) -> None:
    key = "rfilename" if repository is HF else "Path"
    hub.listed["config.json"] = {key: name}
    text = refusal(DownloadError, repository)
    assert "do not trust this repository, or this hub" in text and text.isprintable()
    assert hub.downloads == [] and not (tmp_path / "hf").exists() and not (tmp_path / "modelscope").exists()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"size": -1}, "config.json with a size of -1"),
        ({"size": "7"}, "config.json with a size of '7'"),
        ({"size": 2**60}, "config.json with a size of"),
        ({"blobId": "../../x"}, "config.json with the hash '../../x'"),
        ({"blobId": "A" * 40}, "config.json with the hash 'AAAA"),
        ({"lfs": {"sha256": "../" * 20, "size": 1, "pointerSize": 1}}, "config.json with the hash '../../"),
        ({"rfilename": "qwen.tiktoken"}, "qwen.tiktoken twice"),
    ],
)
def test_sec_15_sizes_hashes_and_names_of_a_listing_are_checked(hub: FakeHub, entry: dict, words: str) -> None:
    hub.listed["config.json"] = entry
    assert words in refusal(DownloadError)


@pytest.mark.parametrize("commit", ["../../../x", "main", "", "0" * 39])
def test_sec_15_a_commit_that_is_none_names_no_directory(hub: FakeHub, tmp_path: Path, commit: str) -> None:
    hub.commit = commit
    assert "the hub lists the commit" in refusal(DownloadError)
    assert not (tmp_path / "hf").exists()


def test_a_token_goes_to_its_own_hub_only(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched(MODELSCOPE)
    assert hub.tokens == {""}
    fetched(HF)
    assert hub.tokens == {"", "Bearer hf_secret"}
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    hub.commit, hub.tokens = COMMIT[::-1], set()
    fetched(MODELSCOPE)
    assert hub.tokens == {"Bearer ms-secret"}


def test_a_modelscope_commit_that_no_file_bears_is_replaced_by_a_hash_of_the_listing(hub: FakeHub) -> None:
    for name in TINY_MODEL | UNWANTED:
        hub.listed[name] = {"Revision": "f" * 40}
    manifest = fetched(MODELSCOPE).manifest
    assert manifest.commit.startswith("listing-") and files_of(manifest.directory) == TINY_MODEL
    assert fetched(MODELSCOPE).num_fetched == 0


def test_a_copy_that_another_tool_left_damaged_is_replaced(hub: FakeHub) -> None:
    directory = fetched().manifest.directory
    shutil.rmtree(Path(os.environ["QWARTET_CACHE"]))
    blob = (directory / SHARD).resolve()
    blob.write_bytes(b"\0" * SIZE)
    with pytest.warns(DownloadWarning, match="the local file does not have the hash that the hub lists"):
        pulled = fetched()
    assert pulled.num_fetched == 1 and files_of(directory) == TINY_MODEL


@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
def test_two_pulls_of_a_model_take_turns(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults[SHARD] = ["hang"]
    outcomes: list[Pulled] = []
    waits = threading.Event()
    real_warn = pull.warnings.warn

    def warn(message: str, *rest: object, **named: object) -> None:
        if "another process" in message:
            waits.set()
        else:
            real_warn(message, DownloadWarning)

    monkeypatch.setattr(pull.warnings, "warn", warn)
    threads = [threading.Thread(target=lambda: outcomes.append(fetched())) for _ in range(2)]
    threads[0].start()
    assert hub.hanging.wait(30)
    threads[1].start()
    assert waits.wait(30)
    hub.released.set()
    for thread in threads:
        thread.join(30)
    assert sorted(outcome.num_fetched for outcome in outcomes) == [0, len(TINY_MODEL)]


@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
def test_rel_20_ctrl_c_while_downloads_are_still_being_started_ends_those_that_run(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(pull.ThreadPoolExecutor):
        """Ctrl-C comes after the first half of the last file, before its submit() has returned."""

        def submit(self, work: Callable, files: list[RemoteFile], *others: object) -> Future:
            future = super().submit(work, files, *others)
            if files[0].name == SHARD:
                assert hub.hanging.wait(30)
                hub.released.set()
                raise KeyboardInterrupt
            return future

    hub.faults[SHARD] = ["hang"]
    with monkeypatch.context() as during_the_first:
        during_the_first.setattr(pull, "ThreadPoolExecutor", Interrupted)
        during_the_first.setattr(fetch, "PAUSES_S", (60.0,) * 5)  # which only a stop ends
        with pytest.raises(KeyboardInterrupt):
            fetched()
    assert asked_ranges(hub) == [None], "nothing more is asked for after Ctrl-C"
    assert files_of(fetched().manifest.directory) == TINY_MODEL
    check_rest_was_asked_for(hub)


def test_rel_20_ctrl_c_keeps_what_came_and_the_next_run_goes_on(hub: FakeHub, tmp_path: Path) -> None:
    """In a process of its own, which hangs in the middle of a file when the signal comes."""
    hub.faults[SHARD] = ["hang"]
    code = (
        "from tests.hub.fake_hub import FakeHub, NAME; import pathlib, pytest, sys\n"
        "from qwartet.cli.main import run; from qwartet.hub import fetch\n"
        f"hub = FakeHub(endpoint={hub.endpoint!r})\n"
        f"hub.become_the_hub(pytest.MonkeyPatch(), pathlib.Path({str(tmp_path)!r}))\n"
        # However late the signal is seen: a connection that ended before is not begun anew.
        "fetch.PAUSES_S = (60.0,) * 5\n"
        "sys.exit(run(['pull', NAME]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    assert hub.hanging.wait(60)
    process.send_signal(signal.SIGINT)
    hub.released.set()
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to resume" in shown
    hub.downloads.clear()
    assert files_of(fetched().manifest.directory) == TINY_MODEL
    check_rest_was_asked_for(hub)


def check_rest_was_asked_for(hub: FakeHub) -> None:
    """The last request for the shard began where the bytes ended that a first run had kept."""
    wanted = asked_ranges(hub)[-1]
    assert wanted is not None and 0 < int(wanted.removeprefix("bytes=").rstrip("-")) <= SIZE // 2
