"""`qwartet quantize`: the flags reach the quantiser; the table, the JSON and the progress say what was done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from qwartet.cli.quantize import quantize
from qwartet.errors import CheckpointError, SettingError
from qwartet.quantize import block
from tests.tiny_checkpoint import NUM_LAYERS, VOCAB_SIZE, write_tiny_checkpoint

app = typer.Typer()
app.command()(quantize)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    save_file({"ids": torch.randint(VOCAB_SIZE, (9, 40), generator=generator)}, tmp_path / "ids.safetensors")
    source = write_tiny_checkpoint(tmp_path / "float")
    return [str(source), str(tmp_path / "out"), "--calibration", str(tmp_path / "ids.safetensors"), "--device", "cpu"]


def test_the_flags_are_the_settings_of_the_checkpoint(arguments: list[str], tmp_path: Path) -> None:
    flags = ["--bits", "8", "--group-size", "64", "--desc-act", "--damp-percent", "0.05"]
    assert CliRunner().invoke(app, [*arguments, *flags]).exit_code == 0
    written = json.loads((tmp_path / "out/quantize_config.json").read_text())
    expected = {"bits": 8, "group_size": 64, "desc_act": True, "damp_percent": 0.05, "sym": True}
    assert {key: written[key] for key in expected} == expected


def test_without_flags_it_is_published_int4(arguments: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 0
    written = json.loads((tmp_path / "out/quantize_config.json").read_text())
    expected = {"bits": 4, "group_size": 128, "desc_act": False, "damp_percent": 0.01, "sym": True}
    assert {key: written[key] for key in expected} == expected


def test_the_options_reach_the_quantiser(arguments: list[str], tmp_path: Path) -> None:
    def losses(*flags: str) -> list[float]:
        target = tmp_path / "-".join(("losses", *flags))
        result = CliRunner().invoke(app, [arguments[0], str(target), *arguments[2:], *flags, "--json"])
        return [linear["loss"] for linear in json.loads(result.stdout)["linears"]]

    plain, searched = losses(), losses("--search-scales")
    assert sum(searched) < 0.95 * sum(plain)
    assert losses("--search-scales", "--act-group-aware") != searched
    assert losses("--auto-damp") != plain
    flags = ["--starved-below", "1000", "--spill", str(tmp_path / "fast")]
    result = CliRunner().invoke(app, [*arguments, *flags])
    assert "r rounded to nearest: fewer calibration tokens than --starved-below" in result.stdout
    assert result.stdout.count("r ") >= 5 * NUM_LAYERS and (tmp_path / "fast").is_dir()


def test_the_built_in_set_needs_no_file(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--calibration", "builtin", "--num-samples", "9", "--json"])
    report = json.loads(result.stdout)
    assert report["calibration_examples"] == 9 and report["calibration_tokens"] > 1000


def test_the_table_has_a_row_of_five_losses_for_each_block(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    rows = [line.split() for line in result.stdout.splitlines()]
    numbers = [[float(word) for word in row] for row in rows if row[0].isdigit()]
    assert [(row[0], len(row)) for row in numbers] == [(layer, 6) for layer in range(NUM_LAYERS)]
    assert all(loss > 0 for row in numbers for loss in row[1:])


def test_progress_is_on_stderr_a_line_for_each_block(arguments: list[str]) -> None:
    lines = CliRunner().invoke(app, arguments).stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"block {i + 1} of {NUM_LAYERS}" for i in range(NUM_LAYERS)]


def test_json_is_one_object_with_every_linear(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--json", "--num-samples", "7", "--max-len", "30"])
    report = json.loads(result.stdout)
    assert (report["calibration_examples"], report["calibration_tokens"]) == (7, 210)
    assert report["bytes"] == (tmp_path / "out/model.safetensors").stat().st_size
    assert len(report["linears"]) == 5 * NUM_LAYERS
    assert {"layer", "linear", "loss", "damp_percent", "seconds"} < report["linears"][0].keys()


def test_a_stopped_run_says_that_it_can_go_on_and_does(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_the_second_block(*_args: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qwartet.quantize.pipeline.advance", stop_at_the_second_block)
    stopped = CliRunner().invoke(app, arguments)
    assert stopped.exit_code == 130
    assert "run the same command again to resume after the last finished block" in stopped.stderr
    monkeypatch.setattr("qwartet.quantize.pipeline.advance", block.advance)
    resumed = CliRunner().invoke(app, arguments)
    assert resumed.exit_code == 0
    assert "block 1 of 2: done by an earlier run" in resumed.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bits", "3"], "only 4 and 8 are supported"),
        (["--group-size", "0"], "group_size is 0"),
        (["--damp-percent", "1"], "damp_percent is 1.0"),
        (["--num-samples", "0"], "num_samples is 0"),
        (["--calibration", "absent.json"], "absent.json: does not exist"),
    ],
)
def test_a_wrong_flag_is_refused_and_nothing_is_written(
    arguments: list[str], tmp_path: Path, flags: list[str], words: str
) -> None:
    before = sorted(tmp_path.iterdir())
    error = CliRunner().invoke(app, [*arguments, *flags]).exception
    assert isinstance(error, SettingError | CheckpointError)
    assert words in str(error)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--calibration", "absent.json"], "absent.json: does not exist"),
        (["--calibration", "BROKEN"], "is not valid JSON"),
        (["--max-len", "0"], "max_len is 0"),
        (["--damp-percent", "1"], "damp_percent is 1.0"),
        (["--starved-below", "-1"], "starved_below is -1; it must be 0 or more"),
        (["--starved-below", "nan"], "starved_below is nan"),
        (["--desc-act", "--act-group-aware"], "two orders of the same inputs; choose one"),
        (["TARGET"], "exists; choose another name"),
    ],
)
def test_what_needs_no_source_is_checked_before_it_is_downloaded(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str], words: str
) -> None:
    (tmp_path / "broken.json").write_text("[{")
    if changes == ["TARGET"]:
        (tmp_path / "out").mkdir()
        changes = []
    changes = [str(tmp_path / "broken.json") if change == "BROKEN" else change for change in changes]
    monkeypatch.setattr("qwartet.cli.quantize.resolve", lambda _name: pytest.fail("the source was looked up"))
    error = CliRunner().invoke(app, [*arguments, *changes]).exception
    assert isinstance(error, SettingError | CheckpointError) and words in str(error)


def test_too_few_tokens_end_it_before_the_work(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    error = CliRunner().invoke(app, [*arguments, "--calibration", str(tmp_path / "short.txt")]).exception
    assert isinstance(error, SettingError) and "about 200,000 tokens are recommended" in str(error)
    assert not (tmp_path / "out.partial").exists()


def test_without_a_terminal_a_line_now_and_then_says_how_far_a_block_is(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwartet.cli.quantize.SECONDS_BETWEEN_LINES", 0.0)
    lines = CliRunner().invoke(app, arguments).stderr.splitlines()
    assert lines[0] == "block 1 of 2: attention.qkv, batch 1 of 1"
    assert any(line.startswith("block 2 of 2: mlp.down quantised, 0:00:0") for line in lines)
    assert all(line.endswith(" left") for line in lines[3:]), lines
