"""The performance document says what the raw figures say, and the committed one was made from the committed figures."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from qwartet.bench import own_command, report
from qwartet.bench.render import render
from qwartet.bench.targets import TARGETS
from qwartet.errors import SettingError
from tests.golden_data import REPOSITORY

CEILINGS = {"read_gb_s": 50.0, "int8_gop_s": 1000.0, "bf16_gop_s": 400.0}


REST = {"seconds": 0.002, "gop_s": 100.0, "bound": "memory", "share": 0.9}


def run(**changes) -> dict:
    usual = {
        "prefill_tok_s": 200.0, "decode_tok_s": 20.0, "batch_tok_s": {"8": 90.0, "16": 120.0}, "mbu": 0.8, "mfu": 0.5,
        "load_s": 0.2, "first_token_s": 0.15, "peak_rss_bytes": 2**31, "ceilings": CEILINGS,
        "kernels": {"attention": "native avx512"},
    }  # fmt: skip
    return usual | changes


RAW = {
    "date": "2026-11-24",
    "machine": {"name": "A processor", "threads": 2},
    "versions": {"qwartet": "0.1.0", "llama.cpp": "1 (abc)"},
    "ours": {
        "exact head": [run(batch_tok_s={"8": 60.0, "16": 80.0}), run(decode_tok_s=24.0)],
        "int8 head": [run(decode_tok_s=40.0)] * 2,
        "exact activations": [run(prefill_tok_s=120.0, batch_tok_s={})] * 2,
    },
    "llama.cpp": [{"prefill_tok_s": 100.0, "decode_tok_s": 20.0}] * 2,
    "llama.cpp batches": [{"8": 30.0, "16": 40.0}] * 2,
    "starts": [{"load_s": 0.2, "first_token_s": 0.15, "token_s": 0.025, "read_s": 0.25}] * 3,
    "long context": [run(mbu=0.84)],
    "kernels": {
        "ceilings": CEILINGS,
        "results": [
            {"shape": "7b", "operation": "int4 qkv, int8", "rows": 1, "gb_s": 48.0, **REST},
            {"shape": "7b", "operation": "int4 up, int8", "rows": 1, "gb_s": 45.0, **REST},
            {"shape": "7b", "operation": "int8 up, int8", "rows": 1, "gb_s": 10.0, **REST},
            {"shape": "7b", "operation": "int4 up, int8", "rows": 512, "gb_s": 1.0, **REST},
        ],
    },
}


def document(raw: dict, directory: Path) -> str:
    (directory / "machine.json").write_text(json.dumps(raw))
    return render(directory)


def test_each_target_is_the_figure_that_its_words_say() -> None:
    values = [target.value(RAW) for target in TARGETS]
    expected = [45 / 50, 1.1, 2.0, 2.0, 1.2, 3.0, 3.0, 0.84, (0.2 + 0.15 - 0.025) / 0.25]
    assert values == pytest.approx(expected)


def test_what_is_missed_is_said_and_what_is_reached_too(tmp_path) -> None:
    text = document(RAW, tmp_path)
    rows = [next(line for line in text.splitlines() if line.startswith(f"| {target.what} ")) for target in TARGETS]
    assert [row.split(" | ")[-1].rstrip(" |") for row in rows] == [
        "**missed**: 90% of 92%", "reached", "stretch reached", "**missed**: 2.00x of 2.20x",
        "**missed**: 1.20x of 1.30x", "reached", "reached", "**missed**: 84% of 85%", "reached",
    ]  # fmt: skip
    assert "| 1.10x | 1.00x, 1.20x | 1.38x | 1.10x | 1.15x | reached |" in rows[1]


def test_the_room_is_the_ratio_at_the_ceilings_of_the_same_run() -> None:
    rooms = [target.median_room(RAW) for target in TARGETS]
    by_arithmetic, by_bytes = 200 / 0.5, 8 * 40 / 0.8  # tokens a second; of 16 requests twice the bytes' figure
    batches = [min(by_arithmetic, by_bytes) / 30, min(by_arithmetic, 2 * by_bytes) / 40]
    expected = [1.0, (1.0 + 1.2) / 0.8 / 2, 2.0 / 0.8, 2.0 / 0.5, 1.2 / 0.5 / 2, *batches, 1.0]
    assert rooms[:-1] == pytest.approx(expected) and rooms[-1] is None


def test_single_operations_are_listed_with_their_ceiling(tmp_path) -> None:
    assert "| 7b | int4 up, int8 | 1 | 2.00 | 45.0 | 100 | 90% of memory |" in document(RAW, tmp_path)


def test_what_was_not_measured_is_not_made_up(tmp_path) -> None:
    raw = copy.deepcopy(RAW)
    raw["kernels"]["results"] = []
    raw["ours"]["int8 head"] = [run(batch_tok_s={})] * 2
    missing = [target.what.split(",")[:2] for target in TARGETS if target.value(raw) is None]
    assert missing == [
        ["GEMV", " 7B and 72B layer shapes"],
        ["decode", " 8 requests at once"],
        ["decode", " 16 requests at once"],
    ]
    assert document(raw, tmp_path).count("not measured") == 3


def test_notes_beside_the_figures_are_taken_in(tmp_path) -> None:
    (tmp_path / "machine.md").write_text("Missed because of the weather.\n")
    assert "\nMissed because of the weather.\n" in document(RAW, tmp_path)


def test_the_committed_document_was_made_from_the_committed_figures() -> None:
    directory = REPOSITORY / "docs" / "performance"
    assert list(directory.glob("*.json"))
    assert (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8") == render(directory)


def test_a_program_that_is_not_there_is_told_before_anything_runs(tmp_path) -> None:
    with pytest.raises(SettingError, match="is not a file"):
        report.ReportSettings(tmp_path, tmp_path / "a", tmp_path / "b", tmp_path / "c")


def test_the_sides_take_turns_and_every_round_is_kept(tmp_path, monkeypatch) -> None:
    order: list[str] = []

    def run_to_end(command: list[str], environment: object, **_settings: object) -> str:
        verb = command[4] if command[3] == "bench" else command[0]
        order.append(f"{verb} {'exact' if 'exact' in command else ''}".strip())
        return json.dumps(RAW["kernels"] if verb == "kernels" else run())

    class Build:
        build = "1 (abc)"
        speed = report_speed()

    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    monkeypatch.setattr(own_command, "run_to_end", run_to_end)
    monkeypatch.setattr(report, "run_llama_bench", lambda *_, **__: order.append("llama") or Build)
    monkeypatch.setattr(report, "run_batched_bench", lambda *_, **__: [])
    raw = report.measure_report(
        report.ReportSettings(tmp_path, tmp_path / "a", tmp_path / "b", tmp_path / "c", rounds=2)
    )
    turn = ["latency exact", "llama", "latency", "latency exact"]
    assert order == ["latency", *turn, *turn, *["latency"] * report.STARTS, "latency", "kernels"]
    assert all(len(runs) == 2 for runs in (*raw["ours"].values(), raw["llama.cpp"]))
    assert json.loads(json.dumps(raw)) == raw


def report_speed():
    from qwartet.bench.peers.alternation import Speed

    return Speed(100.0, 20.0)
