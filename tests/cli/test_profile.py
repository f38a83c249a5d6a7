"""`qwartet profile`: the table on the terminal, the files, and settings that are refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet import DEMO
from qwartet.bench.profile import run
from qwartet.bench.profile.task import Failure
from qwartet.cli import extras
from qwartet.kernels.cpu.library import native_library
from tests.bench.profile_stand_in import CEILINGS, GIB, StandIn, stand_in
from tests.cli.command_line import CommandLine
from tests.golden_data import REPOSITORY


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return stand_in(monkeypatch)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Directories that exist; the stand-in reads nothing in them."""
    found = [tmp_path / name for name in ("a/bf16", "a/int4", "b/int4")]
    for directory in found:
        directory.mkdir(parents=True)
    return found


def test_the_bundled_model_is_measured_in_processes_of_its_own(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(run, "measure_ceilings", lambda: CEILINGS)
    attention = "native" if native_library() is not None else "reference"
    options = ["--contexts", "1,64", "--generate", "8", "--attention", attention, "--out", tmp_path / "out"]
    outcome = qwartet("profile", DEMO, *options, "--json")
    assert outcome.code == 0, outcome
    rows = json.loads(outcome.out)["rows"]
    assert [(row["context"], row["generate"], row["status"]) for row in rows] == [
        (1, 8, "measured"),
        (64, 8, "measured"),
    ]
    for row in rows:
        measured, figures = row["measured"], row["figures"]
        assert 0 < measured["first_token_s"] < measured["seconds"]
        assert figures["tokens_per_s"] == pytest.approx(8 / measured["seconds"])
        assert 0.5 * figures["forecast_bytes"] < measured["peak_bytes"] < 2 * figures["forecast_bytes"]
    assert "2 rows to measure" in outcome.err
    drawn = {"roofline.svg", "roofline.png"} if native_library() is not None else set()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"profile.json", "profile.md", *drawn}


def test_the_table_shows_what_was_measured_and_why_the_rest_was_not(
    qwartet: CommandLine, child: StandIn, models: list[Path]
) -> None:
    child.failures = {6144: Failure("memory ended", True)}
    child.total_bytes = lambda context: (9 if context == 14_336 else 2) * GIB
    outcome = qwartet("profile", models[1], "--contexts", "1,6K,14336,32768")
    assert outcome.code == 0, outcome
    assert outcome.out.splitlines()[:11] == [
        "precision  attention  KV cache  context  generated      tokens/s  published  TTFT s  TPOT ms  decode/s  "
        "of limit           memory   planned",
        "Int4       native     bf16            1       2048         10.00      11.67   0.010    100.0     10.00  "
        "     20%         2.00 GiB  2.00 GiB",
        "Int4       native     bf16         6144       2048           OOM       6.75       -        -         -  "
        "       -              OOM  2.00 GiB",
        "Int4       native     bf16        14336       2048  does not fit       4.18       -        -         -  "
        "       -  9.00 GiB needed  9.00 GiB",
        "Int4       native     bf16        32768       2048      too long          -       -        -         -  "
        "       -                -         -",
        "",
        "tokens/s: generated tokens over total time, including prefill, as on the card; decode/s: after the first "
        "token; of limit: decode speed relative to the memory bandwidth limit",
        "published: on A100-80G GPUs with Transformers and FlashAttention 2",
        "int4, native, bf16 KV cache, 6,144 tokens of context: out of memory: memory ended",
        "int4, native, bf16 KV cache, 14,336 tokens of context: does not fit: 9.00 GiB needed, 8.00 GiB free",
        "int4, native, bf16 KV cache, 32,768 tokens of context: too long: the model's context is 32,768 tokens",
    ]
    assert "row 2 of 2: int4, int4, native, bf16 KV cache, 6,144 tokens of context: out of memory" in outcome.err


def test_several_models_fill_one_table_under_names_that_tell_them_apart(
    qwartet: CommandLine, child: StandIn, models: list[Path]
) -> None:
    options = ["--contexts", "1", "--generate", "8", "--kv-cache-dtype", "auto,int8"]
    lines = qwartet("profile", models[0], models[1], *options).out.splitlines()[1:5]
    assert [line.split()[:4] for line in lines] == [
        [name, precision, "native", kind]
        for name, precision in (("bf16", "BF16"), ("int4", "Int4"))
        for kind in ("bf16", "int8")
    ]
    lines = qwartet("profile", models[1], models[2], *options).out.splitlines()[1:5]
    assert [line.split()[0] for line in lines] == [str(path) for path in models[1:] for _ in range(2)]


def test_a_row_that_failed_shows_in_the_exit_code(qwartet: CommandLine, child: StandIn, models: list[Path]) -> None:
    child.failures = {1: Failure("the process ended with code 1 (it broke)", False)}
    outcome = qwartet("profile", models[1], "--contexts", "1,2", "--generate", "8")
    assert outcome.code == 1 and "failed: the process ended with code 1 (it broke)" in outcome.out


def test_warnings_of_a_row_are_shown_once(
    qwartet: CommandLine, child: StandIn, models: list[Path], monkeypatch
) -> None:
    def warned(*arguments: object) -> object:
        found = child(*arguments)
        return found if "seconds" not in found else {**found, "warnings": ["weights are read from disk"]}

    monkeypatch.setattr(run, "run_task", warned)
    outcome = qwartet("profile", models[1], "--contexts", "1,2", "--generate", "8")
    assert outcome.out.count("warning: weights are read from disk") == 1


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--contexts", "one"], ["--contexts: 'one' is not a whole number"]),
        (["--contexts", ","], ["--contexts is empty"]),
        (["--contexts", "0"], ["--contexts: '0' is not a whole number"]),
        (["--generate", "none"], ["'--generate'", "'none'"]),
        (["--kv-cache-dtype", "auto,int3"], ["--kv-cache-dtype has 'int3'", "auto, int8, int4"]),
        (["--attention", "flash"], ["--attention has 'flash'", "native, reference"]),
        (["--threads", "0"], ["--threads is 0"]),
        (["--out", "FILE"], ["FILE"]),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_runs(
    qwartet: CommandLine, child: StandIn, models: list[Path], tmp_path: Path, options, fragments, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    qwartet("profile", models[1], *options).assert_one_line_error(*fragments)
    assert child.measured == []


def test_a_model_that_is_not_there_is_one_line(qwartet: CommandLine, child: StandIn, tmp_path: Path) -> None:
    qwartet("profile", tmp_path / "none").assert_one_line_error("none")


def test_files_need_matplotlib_and_say_so_first(
    qwartet: CommandLine, child: StandIn, models: list[Path], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    outcome = qwartet("profile", models[1], "--out", tmp_path / "out")
    outcome.assert_one_line_error("profile --out needs matplotlib; install it: pip install 'qwartet[evaluate]'")
    assert child.measured == [] and not (tmp_path / "out").exists()
    assert qwartet("profile", models[1], "--contexts", "1", "--generate", "2").code == 0, "the table alone does not"
