"""Where a model's name leads: directories, downloads from a hub on loopback, and the line for everything else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwartet.errors import ModelNotFoundError, SettingError
from qwartet.models.hub import looks_like_hub_id, resolve
from tests.golden_data import REPOSITORY
from tests.models.fake_hub import FakeHub

NAME = "Somebody/Tiny-Chat"
WANTED = {
    "config.json": b"{}",
    "qwen.tiktoken": b"IQ== 0\n",
    "model-00001-of-00002.safetensors": bytes(range(256)) * 400,
    "model-00002-of-00002.safetensors": bytes(range(255, -1, -1)) * 300,
}
UNWANTED = {"modeling_qwen.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04.", "README.md": b"# Tiny"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({NAME: WANTED | UNWANTED}).serving() as hub:
        yield hub


class Fetched:
    """What `resolve` answered in a process of its own (huggingface_hub reads its environment once, at import)."""

    def __init__(self, name: str, workplace: Path, endpoint: str, *, revision: str | None = None, **environment: str):
        code = (
            "import sys, json; from qwartet.errors import ModelNotFoundError; from qwartet.models.hub import resolve\n"
            "try: print(json.dumps({'path': str(resolve(sys.argv[1], revision=sys.argv[2] or None))}))\n"
            "except ModelNotFoundError as error: print(json.dumps({'error': str(error)}))"
        )
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        hub = {"HF_HOME": str(workplace / "home"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
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


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen-72B-Chat-Int4", "a/b", "org_1/x.y-z", "a/" + "b" * 94])
def test_the_form_of_a_hub_id_is_recognised(name: str) -> None:
    assert looks_like_hub_id(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "./x", "../x", "/x", "~/x", "x/", "a/b/c", "a//b", "-a/b", "a/b-", "a--b", "a..b", "a/b.git",
     "two words", "你好", "a\nb", "a\0b", "a/" + "b" * 95, "https://huggingface.co/a/b"],
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
    with pytest.raises(ModelNotFoundError, match="is not a directory; give the directory"):
        resolve(str(tmp_path / "model.safetensors"))


def test_a_revision_of_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="revision"):
        resolve(str(tmp_path), revision="main")


def test_data_files_are_downloaded_and_code_and_pickles_are_not(hub: FakeHub, tmp_path: Path) -> None:
    fetched = Fetched(NAME, tmp_path, hub.endpoint)
    assert fetched.files == WANTED
    assert {name for name, _ in hub.downloads} == WANTED.keys()


def test_a_cut_download_is_resumed_where_it_broke(hub: FakeHub, tmp_path: Path) -> None:
    name = "model.safetensors"
    content = bytes(range(256)) * (24 << 12)  # 24 MiB: the library writes, and so resumes, by 10 MiB
    hub.repositories[NAME] = {name: content}
    hub.cut = {name}
    assert Fetched(NAME, tmp_path, hub.endpoint).files == {name: content}
    first, second = (wanted for _, wanted in hub.downloads)
    assert first is None
    assert second is not None and 0 < int(second.removeprefix("bytes=").rstrip("-")) < len(content)


def test_a_failed_download_promotes_nothing_and_the_next_run_fetches_only_the_rest(
    hub: FakeHub, tmp_path: Path
) -> None:
    name = "model-00002-of-00002.safetensors"
    hub.dead = {name}
    first = Fetched(NAME, tmp_path, hub.endpoint)
    assert "did not deliver it" in first.error and "run it again" in first.error
    assert WANTED[name] not in blobs(tmp_path)
    assert "not, or not completely, in the cache" in Fetched(NAME, tmp_path, hub.endpoint, HF_HUB_OFFLINE="1").error
    had = {file for file, _ in hub.downloads if file != name and WANTED[file] in blobs(tmp_path)}
    hub.dead, hub.downloads = set(), []
    assert Fetched(NAME, tmp_path, hub.endpoint).files == WANTED
    assert {file for file, _ in hub.downloads} == WANTED.keys() - had


def test_a_cached_model_is_found_offline_and_without_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    online = Fetched(NAME, tmp_path, hub.endpoint)
    num_requests = len(hub.downloads)
    assert Fetched(NAME, tmp_path, hub.endpoint, HF_HUB_OFFLINE="1").path == online.path
    assert Fetched(NAME, tmp_path, f"http://127.0.0.1:{free_port()}").path == online.path
    assert len(hub.downloads) == num_requests


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_each_way_to_fail_has_its_own_advice(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "Somebody" / "Tiny-Cha").mkdir(parents=True)
    hub.repositories["Somebody/Gated"] = WANTED
    hub.gated = {"Somebody/Gated"}
    hub.repositories["Somebody/Pickled"] = UNWANTED | {"config.json": b"{}"}
    errors = {
        "no such model": Fetched("Somebody/Nothing", tmp_path, hub.endpoint).error,
        "did you mean Somebody/Tiny-Cha?": Fetched("Somebody/Tiny-Chatt", tmp_path, hub.endpoint).error,
        "set HF_TOKEN": Fetched("Somebody/Gated", tmp_path, hub.endpoint).error,
        "no revision 'v9'": Fetched(NAME, tmp_path, hub.endpoint, revision="v9").error,
        "no .safetensors files": Fetched("Somebody/Pickled", tmp_path, hub.endpoint).error,
        "unset HF_HUB_OFFLINE": Fetched("Other/Model", tmp_path, hub.endpoint, HF_HUB_OFFLINE="1").error,
        "check the connection": Fetched("Other/Model", tmp_path, f"http://127.0.0.1:{free_port()}").error,
    }
    for advice, error in errors.items():
        assert advice in error and "\n" not in error, error


def test_a_cache_that_cannot_be_written_says_so(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = Fetched(NAME, tmp_path, hub.endpoint, HF_HOME=str(tmp_path / "file" / "home")).error
    assert "HF_HOME" in error and "\n" not in error
