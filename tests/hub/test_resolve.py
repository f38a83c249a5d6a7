"""Where a model's name leads: directories, downloads from a hub on loopback, and the line for everything else."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qwartet.errors import ModelNotFoundError, SettingError
from qwartet.hub.resolve import looks_like_hub_id, resolve
from tests.golden_data import REPOSITORY
from tests.hub.fake_hub import NAME, SHARDS, TINY_MODEL, UNWANTED, FakeHub

WANTED = TINY_MODEL
SHARD = SHARDS[1]


class Fetched:
    """What `resolve` answered in a process of its own (huggingface_hub reads its environment once, at import)."""

    def __init__(self, name: str, workplace: Path, endpoint: str, *, revision: str | None = None, **environment: str):
        code = (
            "import sys, json; from qwartet.errors import QwartetError; from qwartet.hub.resolve import resolve\n"
            "from qwartet.hub import fetch; fetch.PAUSES_S = (0.0,) * 5\n"
            "try: print(json.dumps({'path': str(resolve(sys.argv[1], revision=sys.argv[2] or None))}))\n"
            "except QwartetError as error: print(json.dumps({'error': str(error)}))"
        )
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        hub = {"HF_HOME": str(workplace / "home"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        hub |= {"QWARTET_CACHE": str(workplace / "cache"), "MODELSCOPE_CACHE": str(workplace / "modelscope")}
        hub |= {"MODELSCOPE_ENDPOINT": endpoint}
        result = subprocess.run(
            [sys.executable, "-c", code, name, revision or ""],
            capture_output=True,
            text=True,
            cwd=workplace,
            env={**kept, **proxies, **hub, **environment, "PYTHONPATH": str(REPOSITORY)},
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        answer = json.loads(result.stdout)
        self.path = Path(answer.get("path", ""))
        self.error = answer.get("error", "")

    @property
    def files(self) -> dict[str, bytes]:
        assert not self.error, self.error
        return {path.name: path.read_bytes() for path in self.path.iterdir()}


def blobs(workplace: Path) -> list[bytes]:
    return [path.read_bytes() for path in workplace.rglob("blobs/*") if path.is_file()]


@pytest.mark.parametrize(
    "name", ["gpt2", "Qwen/Qwen-72B-Chat-Int4", "a/b", "org_1/x.y-z", "a/" + "b" * 94, "hf:a/b", "modelscope:qwen/x"]
)
def test_the_form_of_a_hub_id_is_recognised(name: str) -> None:
    assert looks_like_hub_id(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "./x", "../x", "/x", "~/x", "x/", "a/b/c", "a//b", "-a/b", "a/b-", "a--b", "a..b", "a/b.git",
     "two words", "你好", "a\nb", "a\0b", "a/" + "b" * 95, "https://huggingface.co/a/b",
     "hf:", "modelscope:x", "ollama:a/b", "hf:../x", "modelscope:/x", "modelscope:a/b/c", "hf:hf:a/b"],
)  # fmt: skip
def test_a_path_or_a_sentence_is_never_taken_for_a_hub_id(name: str) -> None:
    assert not looks_like_hub_id(name)


def test_a_directory_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Somebody" / "Tiny-Chat").mkdir(parents=True)
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("~/Somebody") == tmp_path / "Somebody"
    assert resolve(NAME) == Path(NAME), "a directory goes before the hub"


def test_a_missing_path_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "Qwen-7B-Chat").mkdir()
    (tmp_path / "Qwen-7B-Chat.txt").touch()
    with pytest.raises(ModelNotFoundError, match=r"no such directory; did you mean .*/Qwen-7B-Chat\?$"):
        resolve(str(tmp_path / "Qwen-7B-Chta"))


@pytest.mark.parametrize("name", ["", "/nowhere/at all", "./x\0y", "/" + "x" * 300])
def test_what_can_be_no_model_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"; \w+") as caught:
        resolve(name)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_a_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match="is not a directory; pass the directory"):
        resolve(str(tmp_path / "model.safetensors"))


def test_a_revision_of_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="revision"):
        resolve(str(tmp_path), revision="main")


@pytest.mark.parametrize("name", [NAME, f"hf:{NAME}", f"modelscope:{NAME}"])
def test_a_hub_id_is_downloaded(hub: FakeHub, tmp_path: Path, name: str) -> None:
    fetched = Fetched(name, tmp_path, hub.endpoint)
    assert fetched.files == WANTED
    assert fetched.path.is_relative_to(tmp_path / ("modelscope" if name.startswith("modelscope") else "home"))


def test_a_failed_download_promotes_nothing_and_the_next_run_fetches_only_the_rest(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.faults[SHARD] = ["500"] * 6
    first = Fetched(NAME, tmp_path, hub.endpoint)
    assert f"{SHARD}: download from {hub.host}" in first.error and "run the command again" in first.error
    assert WANTED[SHARD] not in blobs(tmp_path)
    assert "has no complete copy" in Fetched(NAME, tmp_path, hub.endpoint, HF_HUB_OFFLINE="1").error
    had = {file for file, _ in hub.downloads if file != SHARD and WANTED[file] in blobs(tmp_path)}
    hub.downloads = []
    assert Fetched(NAME, tmp_path, hub.endpoint).files == WANTED
    assert {file for file, _ in hub.downloads} == WANTED.keys() - had


@pytest.mark.parametrize("name", [NAME, f"modelscope:{NAME}"])
def test_a_model_that_is_here_is_used_without_asking_the_hub(hub: FakeHub, tmp_path: Path, name: str) -> None:
    online = Fetched(name, tmp_path, hub.endpoint)
    num_requests = hub.num_requests
    assert Fetched(name, tmp_path, hub.endpoint).path == online.path
    assert Fetched(name, tmp_path, hub.endpoint, HF_HUB_OFFLINE="1").path == online.path
    assert Fetched(name, tmp_path, f"http://127.0.0.1:{free_port()}").path == online.path
    assert hub.num_requests == num_requests


def test_what_another_tool_downloaded_in_part_is_completed_or_used_as_it_is_offline(
    hub: FakeHub, tmp_path: Path
) -> None:
    directory = Fetched(NAME, tmp_path, hub.endpoint).path
    shutil.rmtree(tmp_path / "cache")
    (directory / "generation_config.json").unlink()
    offline = Fetched(NAME, tmp_path, hub.endpoint, HF_HUB_OFFLINE="1")
    assert offline.path == directory and "generation_config.json" not in offline.files
    assert Fetched(NAME, tmp_path, hub.endpoint).files == WANTED


@pytest.mark.parametrize(
    "layout",
    ["models/Some.body--Tiny-Chat_1.5/snapshots/master", "hub/models/Some.body/Tiny-Chat_1___5",
     "hub/Some.body/Tiny-Chat_1___5", "models/Some.body/Tiny-Chat_1___5", "Some.body/Tiny-Chat_1___5"],
)  # fmt: skip
def test_a_model_in_a_place_of_modelscopes_own_library_is_found(tmp_path: Path, layout: str) -> None:
    directory = tmp_path / "modelscope" / layout
    directory.mkdir(parents=True)
    for name, content in WANTED.items():
        (directory / name).write_bytes(content)
    dead = f"http://127.0.0.1:{free_port()}"
    assert Fetched("modelscope:Some.body/Tiny-Chat_1.5", tmp_path, dead, HF_HUB_OFFLINE="1").path == directory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_each_way_to_fail_has_its_own_advice(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "Somebody" / "Tiny-Cha").mkdir(parents=True)
    hub.faults["LICENSE"] = ["403"]
    hub.repositories["Somebody/Pickled"] = UNWANTED | {"config.json": b"{}"}
    errors = {
        "no such model": Fetched("Somebody/Nothing", tmp_path, hub.endpoint).error,
        "did you mean Somebody/Tiny-Cha?": Fetched("Somebody/Tiny-Chatt", tmp_path, hub.endpoint).error,
        "set HF_TOKEN": Fetched(NAME, tmp_path, hub.endpoint).error,
        "did you mean Qwen/Qwen-7B-Chat-Int4": Fetched("Qwen/Qwen-7B-Chat-int4", tmp_path, hub.endpoint).error,
        "no revision 'v9'": Fetched(NAME, tmp_path, hub.endpoint, revision="v9").error,
        "no .safetensors files": Fetched("Somebody/Pickled", tmp_path, hub.endpoint).error,
        "unset HF_HUB_OFFLINE": Fetched("Other/Model", tmp_path, hub.endpoint, HF_HUB_OFFLINE="1").error,
        "fix or unset HF_ENDPOINT": Fetched("Other/Model", tmp_path, f"http://127.0.0.1:{free_port()}").error,
    }
    for advice, error in errors.items():
        assert advice in error and "\n" not in error, error


def test_a_cache_that_cannot_be_written_says_so(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = Fetched(NAME, tmp_path, hub.endpoint, HF_HOME=str(tmp_path / "file" / "home")).error
    assert "HF_HOME" in error and "\n" not in error
