"""A profile: which rows it has, which of them are measured, and what is kept between runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet.bench.profile import run
from qwartet.bench.profile.estimate import START_S
from qwartet.bench.profile.file import NAME, ProfileFile, facts_of, read_profile
from qwartet.bench.profile.row import Row
from qwartet.bench.profile.run import ProfileEvent, measure_profile
from qwartet.bench.profile.settings import ATTENTION_SETTINGS, ProfileSettings
from qwartet.bench.profile.task import Failure
from qwartet.errors import SettingError
from tests.bench.profile_stand_in import BF16, GIB, INT4, StandIn, settings, stand_in


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return stand_in(monkeypatch)


def profile(of: ProfileSettings, out: Path | None = None, *, overwrite: bool = False) -> list[Row]:
    return measure_profile(of, ProfileFile(facts_of(of), out, overwrite=overwrite))


def statuses(rows: list[Row]) -> dict[int, str]:
    return {row.context: row.status for row in rows}


# --- figures


def test_known_times_give_the_known_figures(child: StandIn) -> None:
    first, second = profile(settings())
    assert second.tokens_per_s == pytest.approx(11 / (1.0 + 0.1 * 10)), "the whole time counts, prefill included"
    assert second.token_s == pytest.approx(0.1) and second.decode_tokens_per_s == pytest.approx(10)
    assert second.bandwidth_share == pytest.approx(10**9 / 0.1 / 50e9)
    assert first.measured is not None and first.measured.first_token_s == pytest.approx(0.01)
    assert first.measured.peak_bytes == 2 * GIB and first.forecast_bytes == 2 * GIB + 2**18


def test_an_answer_of_one_token_has_no_decoding_speed(child: StandIn) -> None:
    for row in profile(settings(generate=1)):
        assert row.tokens_per_s is not None
        assert (row.token_s, row.decode_tokens_per_s, row.bandwidth_share) == (None, None, None)


def test_a_start_that_packs_is_held_against_the_plan_of_such_a_start(child: StandIn) -> None:
    child.has_packed = True
    assert profile(settings())[0].forecast_bytes == 3 * GIB + 2**18


def test_published_figures_stand_beside_their_own_row_alone(child: StandIn) -> None:
    of = settings(contexts=(1, 6144, 100), generate=2048, kv_cache_dtypes=("auto", "int8"))
    found = {(row.kv_cache_dtype, row.context): [run.tokens_per_s for run in row.published] for row in profile(of)}
    assert found["bf16", 1] == [11.67, 14.63, 20.76, 27.19] and found["bf16", 6144] == [6.75, 18.07, 24.56]
    assert found["bf16", 100] == [] and found["int8", 1] == [], "no such run was published"
    assert profile(settings(generate=2047))[0].published == []
    child.size = None
    assert profile(settings(generate=2048))[0].published == []


# --- which rows


def test_rows_are_those_of_the_card_in_its_order(child: StandIn) -> None:
    of = settings(models=(INT4, BF16), kv_cache_dtypes=("int8", "auto"), attention=("native", "reference"))
    found = [(row.precision, row.context, row.attention, row.kv_cache_dtype) for row in profile(of)]
    assert found == [
        (precision, context, attention, kind)
        for precision in ("bf16", "int4")
        for context in (1, 100)
        for attention in ("native", "reference")
        for kind in ("bf16", "int8")
    ]


def test_each_row_runs_in_the_environment_of_its_setting(child: StandIn) -> None:
    profile(settings(contexts=(1,), attention=("native", "reference"), threads=3, activations="exact"))
    assert child.environments == [{}, {"QWARTET_CPU_ISA": "none"}]
    assert {task["threads"] for task in child.measured} == {3}
    assert {task["activations"] for task in child.measured} == {"exact"}


def test_a_row_that_does_not_fit_by_the_plan_is_refused_unless_forced(child: StandIn) -> None:
    child.total_bytes = lambda context: (9 if context == 100 else 2) * GIB
    [fits, refused] = profile(settings())
    assert (fits.status, refused.status) == ("measured", "does not fit")
    assert refused.reason == "9.00 GiB needed, 8.00 GiB free" and refused.measured is None
    assert [task["context"] for task in child.measured] == [1]
    assert statuses(profile(settings(force=True))) == {1: "measured", 100: "measured"}


def test_a_row_beyond_the_models_context_is_never_measured(child: StandIn) -> None:
    rows = profile(settings(contexts=(1, 32_757, 32_758), force=True))
    assert statuses(rows) == {1: "measured", 32_757: "measured", 32_758: "too long"}
    assert rows[2].reason == "the model's context is 32,768 tokens" and rows[2].forecast_bytes is None


def test_a_row_that_ran_out_of_memory_says_so_and_the_others_go_on(child: StandIn) -> None:
    child.failures = {1: Failure("memory ended", True), 50: Failure("something broke", False)}
    rows = profile(settings(contexts=(1, 50, 100)))
    assert statuses(rows) == {1: "out of memory", 50: "failed", 100: "measured"}
    assert [row.reason for row in rows] == ["memory ended", "something broke", None]


def test_a_checkpoint_that_cannot_be_planned_ends_the_run_before_any_row(child: StandIn, monkeypatch) -> None:
    monkeypatch.setattr(run, "run_task", lambda *_: Failure("config.json: no such file", False))
    with pytest.raises(SettingError, match="no such file"):
        profile(settings())


def test_without_the_native_library_its_setting_is_refused(child: StandIn, monkeypatch) -> None:
    monkeypatch.setattr(run, "native_library", lambda: None)
    with pytest.raises(SettingError, match="use --attention reference"):
        profile(settings())
    [row] = profile(settings(contexts=(1,), attention=("reference",)))
    assert row.status == "measured" and row.bandwidth_share is None, "nothing measures the limits"


def test_weights_that_a_first_start_packs_are_packed_before_the_first_row(child: StandIn) -> None:
    child.keeps_packed = True
    profile(settings(models=(INT4, BF16)))
    asked = [(Path(task["model"]).name, task["context"], task["generate"]) for task in child.measured]
    assert asked == [
        *(("bf16", 1, 1), ("bf16", 1, 11), ("bf16", 100, 11)),
        *(("int4", 1, 1), ("int4", 1, 11), ("int4", 100, 11)),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contexts": ()}, "--contexts is empty"),
        ({"contexts": (0,)}, "--contexts is 0; it must be between 1 and"),
        ({"generate": 0}, "--generate is 0"),
        ({"kv_cache_dtypes": ("int3",)}, "--kv-cache-dtype has 'int3'; it must be one or more of auto, int8, int4"),
        ({"attention": ("flash",)}, "--attention has 'flash'; it must be one or more of native, reference"),
        ({"attention": ()}, "--attention is empty"),
        ({"threads": 0}, "--threads is 0; it must be between 1 and 256"),
        ({"models": (INT4, INT4)}, "two models have the name 'some-int4'"),
    ],
)
def test_wrong_settings_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings(**changes)
    assert words in str(caught.value)


# --- what is kept


def test_a_second_run_measures_only_what_is_not_there(child: StandIn, tmp_path: Path) -> None:
    earlier = profile(settings(), tmp_path)
    assert profile(settings(), tmp_path) == earlier
    assert len(child.measured) == 2
    rows = profile(settings(contexts=(1, 50)), tmp_path)
    assert [row.context for row in rows] == [1, 50], "what was asked for"
    assert [task["context"] for task in child.measured] == [1, 100, 50]
    assert [row.context for row in read_profile(tmp_path / NAME)[1]] == [1, 50, 100], "the file keeps all"


def test_rows_of_other_lengths_are_other_rows(child: StandIn, tmp_path: Path) -> None:
    profile(settings(contexts=(1,)), tmp_path)
    profile(settings(contexts=(1,), generate=12), tmp_path)
    assert [task["generate"] for task in child.measured] == [11, 12]


def test_a_failed_row_is_measured_again_and_one_out_of_memory_is_not(child: StandIn, tmp_path: Path) -> None:
    child.failures = {1: Failure("memory ended", True), 100: Failure("something broke", False)}
    profile(settings(), tmp_path)
    child.failures = {}
    assert statuses(profile(settings(), tmp_path)) == {1: "out of memory", 100: "measured"}
    assert statuses(profile(settings(), tmp_path, overwrite=True)) == {1: "measured", 100: "measured"}


def test_a_refused_row_is_measured_once_it_is_forced(child: StandIn, tmp_path: Path) -> None:
    child.total_bytes = lambda context: 9 * GIB
    assert set(statuses(profile(settings(), tmp_path)).values()) == {"does not fit"}
    assert set(statuses(profile(settings(force=True), tmp_path)).values()) == {"measured"}
    assert set(statuses(profile(settings(), tmp_path)).values()) == {"measured"}, "and then stays"


def test_an_interrupted_run_keeps_the_rows_before(child: StandIn, tmp_path: Path) -> None:
    child.interrupted_at = 100
    with pytest.raises(KeyboardInterrupt):
        profile(settings(), tmp_path)
    assert statuses(read_profile(tmp_path / NAME)[1]) == {1: "measured"}
    child.interrupted_at = None
    profile(settings(), tmp_path)
    assert [task["context"] for task in child.measured] == [1, 100, 100]


def test_rows_of_another_machine_or_of_other_options_are_not_mixed_in(child: StandIn, tmp_path: Path) -> None:
    profile(settings(), tmp_path)
    with pytest.raises(SettingError, match=r"to a different run \(threads was None and is 1\); choose another --out"):
        profile(settings(threads=1), tmp_path)
    assert len(profile(settings(threads=1), tmp_path, overwrite=True)) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": []}', '{"profile": {}, "rows": [{}]}', "\xff"])
def test_a_file_that_is_no_profile_is_named(child: StandIn, tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content, encoding="latin-1")
    with pytest.raises(SettingError, match=f"{NAME} is not a profile of this version; choose another --out"):
        profile(settings(), tmp_path)


def test_a_directory_that_cannot_be_written_is_found_before_the_first_row(child: StandIn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        profile(settings(), tmp_path / "file" / "out")
    assert child.measured == []


def test_what_is_written_is_what_is_read(child: StandIn, tmp_path: Path) -> None:
    child.failures = {50: Failure("memory ended", True)}
    of = settings(contexts=(1, 50, 32_768), generate=2048)
    rows = profile(of, tmp_path)
    assert read_profile(tmp_path / NAME) == (facts_of(of), rows)
    first = json.loads((tmp_path / NAME).read_text())["rows"][0]
    assert first["figures"]["tokens_per_s"] == rows[0].tokens_per_s
    assert first["published"][0]["tokens_per_s"] == 11.67


# --- how long it takes


def test_the_time_is_known_beforehand_and_counts_down(child: StandIn) -> None:
    events: list[ProfileEvent] = []
    of = settings()
    measure_profile(of, ProfileFile(facts_of(of)), events.append)
    native = ATTENTION_SETTINGS["native"]
    read, peak = 50e9 * native.decode_share, 2000e9 * native.prefill_share
    limits = [max(context * 1e10 / peak, 1e9 / read) + 11 * 1e9 / read for context in (1, 100)]
    assert [event.kind for event in events] == ["planned", *(("started", "progress", "done") * 2)]
    assert events[0].left_s == pytest.approx(2 * START_S + sum(limits)) and events[0].total == 2
    assert events[1].left_s == events[0].left_s, "nothing is done yet"
    times = [event.left_s for event in events if event.left_s is not None]
    assert len(times) == len(events) and times[-1] == pytest.approx(0)
    assert times[2] < times[1]
    slower = 1.01 / limits[0]  # what the first row took, over what the limits say
    assert times[3] == pytest.approx(START_S + limits[1] * slower), "corrected by what the first row took"


def test_a_run_without_work_says_so(child: StandIn, tmp_path: Path) -> None:
    profile(settings(), tmp_path)
    events: list[ProfileEvent] = []
    of = settings()
    measure_profile(of, ProfileFile(facts_of(of), tmp_path), events.append)
    assert [(event.kind, event.total) for event in events] == [("planned", 0)]
