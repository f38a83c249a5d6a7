"""`qwartet plan` of a model on a hub: its config.json alone is fetched, and only where no copy and no table has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine, listing
from tests.cli.test_plan import planned
from tests.hub.fake_hub import COMMIT, NAME, FakeHub
from tests.tiny_checkpoint import write_tiny_checkpoint

WEIGHTS = ("linears", "embedding", "head", "8-bit copy of the head", "norms and biases")


def offer(hub: FakeHub, directory: Path) -> Path:
    """Puts a checkpoint on the hub."""
    hub.repositories[NAME] = {path.name: path.read_bytes() for path in directory.iterdir()}
    return directory


@pytest.mark.parametrize("name", [NAME, f"hf:{NAME}", f"modelscope:{NAME}"])
@pytest.mark.parametrize("settings", [{}, {"bits": 4}, {"bits": 8}], ids=str)
def test_the_plan_is_that_of_the_files_and_only_the_config_is_fetched(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path, name: str, settings: dict
) -> None:
    directory = offer(hub, write_tiny_checkpoint(tmp_path / "local" / "model", **settings))
    before = listing(tmp_path)
    from_hub, local = planned(qwartet, name), planned(qwartet, directory)
    assert {row: from_hub["rows"].get(row) for row in WEIGHTS} == {row: local["rows"].get(row) for row in WEIGHTS}
    for key in ("precision", "dtype", "context", "weights_bytes", "kv_caches", "gpus"):
        if key != "kv_caches":  # whose totals contain the tokenizer, of which the config says less
            assert from_hub[key] == local[key], key
    assert hub.downloads == [("config.json", None)] and hub.num_requests == 1
    assert listing(tmp_path) == before


def test_the_hub_and_the_revision_may_be_options(hub: FakeHub, qwartet: CommandLine, tmp_path: Path) -> None:
    offer(hub, write_tiny_checkpoint(tmp_path / "model"))
    for revision in ("v1", COMMIT):
        assert planned(qwartet, NAME, "--source", "modelscope", "--revision", revision)["precision"] == "bf16"
    qwartet("plan", NAME, "--revision", "v9").assert_one_line_error(f"{NAME}: no revision 'v9' on the hub")


def test_a_downloaded_model_and_a_published_name_need_no_network(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path
) -> None:
    offer(hub, write_tiny_checkpoint(tmp_path / "model"))
    assert qwartet("pull", NAME).code == 0
    num_requests = hub.num_requests
    assert planned(qwartet, NAME)["rows"]["tokenizer"]
    for published in ("Qwen/Qwen-7B-Chat", "modelscope:qwen/Qwen-14B", "qwen-1_8b-chat-int4", "72b"):
        assert planned(qwartet, published)["published"]
    assert hub.num_requests == num_requests


def test_a_directory_with_the_name_of_an_id_goes_first(
    hub: FakeHub, qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_checkpoint(tmp_path / NAME, bits=4)
    monkeypatch.chdir(tmp_path)
    assert planned(qwartet, NAME, "--source", "modelscope")["precision"] == "int4"
    assert hub.num_requests == 0


@pytest.mark.parametrize("family", ["llama", "qwen2_vl", "qwen3_moe"])
def test_a_family_that_cannot_be_read_is_named(hub: FakeHub, qwartet: CommandLine, family: str) -> None:
    hub.repositories[NAME]["config.json"] = json.dumps({"model_type": family}).encode()
    qwartet("plan", NAME).assert_one_line_error(
        f"{NAME}/config.json: model_type is '{family}'", "Qwartet runs dense Qwen text models"
    )


@pytest.mark.parametrize("config", [{}, {"model_type": 7}, {"Code": 404, "Success": False}])
def test_a_config_of_no_model_is_one_line(hub: FakeHub, qwartet: CommandLine, config: dict) -> None:
    hub.repositories[NAME]["config.json"] = json.dumps(config).encode()
    qwartet("plan", NAME).assert_one_line_error("config.json: does not name a model_type")


def test_a_config_that_is_incomplete_or_of_a_qwen_that_sees_is_one_line(hub: FakeHub, qwartet: CommandLine) -> None:
    hub.repositories[NAME]["config.json"] = b'{"model_type": "qwen"}'
    qwartet("plan", NAME).assert_one_line_error(f"{NAME}/config.json: key 'hidden_size' is missing")
    hub.repositories[NAME]["config.json"] = b'{"model_type": "qwen", "visual": {}}'
    qwartet("plan", NAME).assert_one_line_error("Qwen-VL")


def test_offline_says_so(hub: FakeHub, qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    qwartet("plan", NAME).assert_one_line_error("HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
    assert hub.num_requests == 0


def test_an_unknown_model_asks_whether_a_published_one_was_meant(hub: FakeHub, qwartet: CommandLine) -> None:
    qwartet("plan", "Qwen/Qwen-7B-Caht").assert_one_line_error("no such model on", "did you mean Qwen/Qwen-7B-Chat")
    qwartet("plan", "Somebody/Nothing").assert_one_line_error("no such model on", "check the spelling")
