"""A profile on paper: the table as on the card, in both languages, and the roofline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwartet.bench.profile.file import ProfileFile, facts_of
from qwartet.bench.profile.roofline import NAMES, draw_roofline, points, roofs
from qwartet.bench.profile.row import Row
from qwartet.bench.profile.run import measure_profile
from qwartet.bench.profile.settings import ProfileSettings
from qwartet.bench.profile.table import WORDS, cells, commands, markdown, markdown_table
from qwartet.bench.profile.task import Failure
from tests.bench.profile_stand_in import BF16, CEILINGS, GIB, INT4, StandIn, settings, stand_in


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return stand_in(monkeypatch)


def profile(of: ProfileSettings) -> list[Row]:
    return measure_profile(of, ProfileFile(facts_of(of)))


def test_known_figures_give_the_known_table(child: StandIn) -> None:
    child.failures = {6144: Failure("memory ended", True)}
    child.total_bytes = lambda context: (9 if context == 14_336 else 2) * GIB
    rows = profile(settings(contexts=(1, 6144, 14_336, 30_721), generate=2048))
    assert markdown_table(rows).splitlines() == [
        "| Model | Quantization | Setting | Device | KV cache | Context Length | Generation Length | "
        "Speed (Tokens/s) | Published (A100-80G) | TTFT (s) | TPOT (ms) | Decode (Tokens/s) | Of bandwidth limit | "
        "Peak Memory | Forecast by plan |",
        "| " + " | ".join(["---"] * 5 + ["---:"] * 10) + " |",
        "| some-int4 | Int4 | native | CPU, 2 threads | bf16 | 1 | 2048 | 10.00 | 11.67 (HF + FlashAttn-v2, 1 GPU, "
        "48.86 GiB); 14.63 (vLLM, 1 GPU); 20.76 (vLLM, 2 GPUs); 27.19 (vLLM, 4 GPUs) | 0.010 | 100.0 | 10.00 | 20% | "
        "2.00 GiB | 2.00 GiB |",
        "| some-int4 | Int4 | native | CPU | bf16 | 6144 | 2048 | OOM | 6.75 (HF + FlashAttn-v2, 2 GPUs, 85.99 GiB); "
        "18.07 (vLLM, 2 GPUs); 24.56 (vLLM, 4 GPUs) | - | - | - | - | OOM | 2.00 GiB |",
        "| some-int4 | Int4 | native | CPU | bf16 | 14336 | 2048 | does not fit | 4.18 (HF + FlashAttn-v2, 3 GPUs, "
        "148.73 GiB); 14.51 (vLLM, 2 GPUs); 19.28 (vLLM, 4 GPUs) | - | - | - | - | 9.00 GiB needed | 9.00 GiB |",
        "| some-int4 | Int4 | native | CPU | bf16 | 30721 | 2048 | too long | - | - | - | - | - | - | - |",
    ]


def test_a_column_without_anything_is_left_out(child: StandIn) -> None:
    rows = profile(settings())
    assert "Published" not in markdown_table(rows)
    assert "TTFT" in markdown_table(rows) and "TPOT" not in markdown_table(profile(settings(generate=1)))


def test_both_languages_have_the_same_cells(child: StandIn) -> None:
    child.failures = {100: Failure("broke | here\nand there", False)}
    rows = profile(settings())
    assert len(WORDS["en"].headings) == len(WORDS["zh"].headings) == len(cells(rows[0]))
    english, chinese = (markdown_table(rows, language).splitlines() for language in ("en", "zh"))
    assert "上下文长度" in chinese[0] and english[2].replace("CPU, 2 threads", "CPU，2 线程") == chinese[2]
    assert r"| failed |" in english[3] and r"broke \| here and there" in english[3], "one row stays one line"
    assert "失败" in chinese[3]


def test_the_document_says_how_it_was_made_and_how_to_repeat_it(child: StandIn) -> None:
    of = settings(models=(INT4, BF16), contexts=(100, 1), kv_cache_dtypes=("auto", "int8"), threads=1, head="exact")
    text = markdown(facts_of(of), profile(of), picture="roofline.svg")
    assert facts_of(of)["processor"] in text and "](roofline.svg)" in text
    assert (
        "    qwartet profile some-bf16 some-int4 --contexts 1,100 --kv-cache-dtype auto,int8 --attention native "
        "--generate 11 --threads 1 --head exact\n"
    ) in text
    assert "A100" not in text, "nothing published stands beside"
    assert "![" not in markdown(facts_of(of), profile(of), picture=None)


def test_rows_of_several_lengths_take_several_commands(child: StandIn) -> None:
    rows = [*profile(settings(contexts=(1,))), *profile(settings(contexts=(100,), generate=12))]
    found = list(commands(facts_of(settings()), rows))
    assert [("--contexts 1 " in line, "--generate 11" in line) for line in found] == [(True, True), (False, False)]


# --- roofline


def test_points_are_operations_for_each_byte_and_a_second(child: StandIn) -> None:
    found = {(point.phase, point.context): point for point in points(profile(settings()))}
    assert set(found) == {(phase, context) for phase in ("prefill", "decode") for context in (1, 100)}
    prefill, decode = found["prefill", 100], found["decode", 100]
    assert (prefill.intensity, prefill.gop_s) == (pytest.approx(1000), pytest.approx(1000 / 1.0))
    assert (decode.intensity, decode.gop_s) == (pytest.approx(4), pytest.approx(4 / 0.1))


def test_series_are_named_by_what_differs(child: StandIn) -> None:
    assert {point.series for point in points(profile(settings()))} == {"Int4"}
    rows = profile(settings(models=(INT4, BF16), kv_cache_dtypes=("auto", "int8")))
    assert {point.series for point in points(rows)} == {
        f"{model}, {kind} KV cache" for model in ("some-bf16, BF16", "some-int4, Int4") for kind in ("bf16", "int8")
    }


def test_the_roofs_are_the_best_that_the_machine_showed(child: StandIn) -> None:
    rows = profile(settings())
    slow = replace(CEILINGS, read_gb_s=20.0, int8_gop_s=3000.0)
    found = roofs([rows[0], replace(rows[1], ceilings=slow)])
    assert found is not None and (found.read_gb_s, found.int8_gop_s) == (50.0, 3000.0)
    assert roofs([replace(row, ceilings=None) for row in rows]) is None


def test_the_same_rows_give_the_same_pictures(child: StandIn, tmp_path: Path) -> None:
    rows = profile(settings(models=(INT4, BF16)))
    for name in ("one", "two"):
        assert draw_roofline(rows, tmp_path / name)
    for name in NAMES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    svg = (tmp_path / "one" / NAMES[0]).read_text()
    assert "<dc:date>" not in svg and svg.count("</svg>") == 1
    assert (tmp_path / "one" / NAMES[1]).read_bytes().startswith(b"\x89PNG")
    draw_roofline(rows[:1], tmp_path / "two")
    assert (tmp_path / "two" / NAMES[0]).read_text() != svg, "other rows give another picture"


def test_nothing_is_drawn_where_nothing_was_measured(child: StandIn, tmp_path: Path) -> None:
    child.failures = {context: Failure("memory ended", True) for context in (1, 100)}
    assert not draw_roofline(profile(settings()), tmp_path) and list(tmp_path.iterdir()) == []


def test_peaks_close_to_each_other_share_a_line(child: StandIn, tmp_path: Path) -> None:
    from qwartet.bench.profile.roofline import _named_peaks

    assert _named_peaks(CEILINGS) == {"fp32": 500.0, "bf16": 1000.0, "int8": 2000.0}
    assert _named_peaks(replace(CEILINGS, bf16_gop_s=510.0)) == {"fp32, bf16": 510.0, "int8": 2000.0}
