"""The READMEs' table and chart are made from the committed figures, and from figures alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qwartet.bench import own_command, sizes
from qwartet.bench.bar_chart import Bar, BarGroup, bar_chart
from qwartet.bench.size_table import READMES, replace_table, size_chart, size_table
from qwartet.bench.sizes import SizesSettings, measure_sizes, tokens_per_s
from qwartet.errors import SettingError
from qwartet.models.shapes import SHAPES
from tests.golden_data import REPOSITORY

COMMITTED = json.loads((REPOSITORY / "docs/performance/sizes/sizes.json").read_text(encoding="utf-8"))


def speeds(*decode: float) -> list[dict[str, float]]:
    return [{"decode_tok_s": value, "prefill_tok_s": value * 10} for value in decode]


@pytest.mark.parametrize(("name", "language"), READMES.items())
def test_the_readme_shows_the_committed_figures(name: str, language) -> None:
    readme = (REPOSITORY / name).read_text(encoding="utf-8")
    assert replace_table(readme, size_table(COMMITTED, language)) == readme
    assert "docs/images/sizes.svg" in readme


def test_the_chart_shows_the_committed_figures() -> None:
    assert (REPOSITORY / "docs/images/sizes.svg").read_text(encoding="utf-8") == size_chart(COMMITTED)


def test_the_memory_is_what_plan_says_today() -> None:
    for name, size in COMMITTED["sizes"].items():
        assert sizes.planned_bytes(name) == pytest.approx(size["memory_bytes"], rel=0.02), name


def test_a_size_in_two_depths_is_extended_by_the_time_of_a_layer() -> None:
    layers = SHAPES["72b"].num_layers
    runs = [
        {"layers": 4, "ours": speeds(1 / 5, 1 / 7, 1 / 6)},  # a median of 6 s
        {"layers": 12, "ours": speeds(1 / 22)},
    ]
    seconds = 1 / tokens_per_s({"sizes": {"72b": {"runs": runs}}}, "72b", "ours", "decode")
    assert seconds == pytest.approx(6 + (layers - 4) * 2)


def test_a_whole_size_is_the_median_of_its_rounds() -> None:
    raw = {"sizes": {"7b": {"runs": [{"layers": 32, "ours": speeds(1, 9, 4)}]}}}
    assert tokens_per_s(raw, "7b", "ours", "prefill") == pytest.approx(40)


def test_measuring_takes_turns_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for both programs: what fits is measured whole, what does not at two depths."""
    calls: list[str] = []

    def run(arguments, environment=None, **_settings) -> str:
        if "plan" in arguments:
            return json.dumps({"total_bytes": 2**20 if "1.8b" in arguments else 2**60})
        calls.append("ours")
        assert Path(environment["QWARTET_CACHE"]).parent == tmp_path
        return "text\n" + json.dumps({"prefill_tok_s": 2.0, "decode_tok_s": 1.0, "peak_rss_bytes": 5})

    class PeerRun:
        build = "1 (abc)"
        speed = sizes.Speed(1.0, 1.0)

    def peer(*_arguments, **_settings) -> PeerRun:
        calls.append("llama.cpp")
        return PeerRun()

    monkeypatch.setattr(own_command, "run_to_end", run)
    monkeypatch.setattr(sizes, "run_llama_bench", peer)
    monkeypatch.setattr(sizes, "plan_synthesis", lambda shape, gptq: shape)
    monkeypatch.setattr(sizes, "write_synthesis", lambda shape, target: target.mkdir())
    monkeypatch.setattr(sizes, "write_gguf", lambda path, shape, **kinds: path.write_bytes(b""))
    (tmp_path / "llama-bench").write_bytes(b"")
    raw = measure_sizes(SizesSettings(tmp_path / "llama-bench", tmp_path, ("1.8b", "72b"), rounds=2))
    assert [run["layers"] for run in raw["sizes"]["1.8b"]["runs"]] == [24]
    assert [run["layers"] for run in raw["sizes"]["72b"]["runs"]] == list(sizes.DEPTHS)
    assert calls == ["ours", *["ours", "llama.cpp"] * 2] * 3  # the first run of each repacks
    assert [path.name for path in tmp_path.iterdir()] == ["llama-bench"]
    table = size_table(raw)
    assert "| 1.8B | 0.0 GiB | **1.00** | 1.00 | **2.00** | 1.00 |" in table
    assert "72B: calculated from runs with 4 and 12 of 80 layers" in table


def test_settings_out_of_bounds_are_refused(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    with pytest.raises(SettingError, match="is not a file"):
        SizesSettings(program, tmp_path)
    program.write_bytes(b"")
    with pytest.raises(SettingError, match="'3b' is unknown"):
        SizesSettings(program, tmp_path, ("3b",))
    with pytest.raises(SettingError, match="at least 1"):
        SizesSettings(program, tmp_path, rounds=0)


def test_a_chart_is_well_formed_and_to_scale() -> None:
    groups = [BarGroup("<A>", (Bar("one", 1.0, "1"), Bar("two", 2.0, "2")))]
    picture = ElementTree.fromstring(bar_chart("a & b", groups, reference=1.0))
    widths = [float(bar.attrib["width"]) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    with pytest.raises(ValueError, match="above 0"):
        bar_chart("nothing", [], reference=1.0)


def test_a_document_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        replace_table("# Title", "| a |")
    assert re.search(r"\| 72B \|", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
