"""The throughput bench on a clock that only steps move: arrivals, times, percentiles, workloads, the verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from qwartet import DEMO
from qwartet.bench.request_times import percentiles_ms
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.bench.throughput import serve
from qwartet.bench.workload import arrival_times, make_prompts
from qwartet.cli.main import run
from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.speculate import StepCost
from qwartet.errors import SettingError
from qwartet.models.load import load_model
from qwartet.models.shapes import gptq_config
from tests.bench.tiny_shape import TINY
from tests.reference.tiny_model import tiny_network, tiny_weights

STEP_S = 0.5


class Clock:
    """Moves by STEP_S with every step of the engine, and by sleeping."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 100.0, 0.0
        step = engine.step

        def timed_step() -> object:
            self.now += STEP_S
            return step()

        monkeypatch.setattr(engine, "step", timed_step)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def engine() -> Engine:
    return Engine(tiny_network(tiny_weights()), EngineConfig(max_num_seqs=2, speculation="off"))


@pytest.fixture
def clock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(engine, monkeypatch)


def greedy(num_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)


def test_times_count_from_the_arrival_and_tokens_come_with_steps(engine: Engine, clock: Clock) -> None:
    found = serve(engine, [[1, 2], [3, 4]], greedy(3), [0.0, 0.7], clock=lambda: clock.now, sleep=clock.sleep)
    first, second = found.times
    assert first.output_s == pytest.approx([0.5, 1.0, 1.5]) and second.output_s == pytest.approx([1.5, 2.0, 2.5])
    assert (first.ttft_s, second.ttft_s) == pytest.approx((0.5, 0.8))
    assert first.tpot_s == pytest.approx(0.5) and first.itl_s == pytest.approx([0.5, 0.5])
    assert found.seconds == pytest.approx(2.5) and found.output_tok_s == pytest.approx(6 / 2.5)


def test_nothing_is_done_before_the_next_arrival(engine: Engine, clock: Clock) -> None:
    found = serve(engine, [[1], [2]], greedy(1), [0.0, 10.0], clock=lambda: clock.now, sleep=clock.sleep)
    assert clock.slept == pytest.approx(9.5)
    assert [one.ttft_s for one in found.times] == pytest.approx([0.5, 0.5])


def test_arrivals_do_not_wait_for_the_engine(engine: Engine, clock: Clock) -> None:
    """Two run at once, so the third waits in the queue, and its wait counts in its TTFT."""
    found = serve(engine, [[1], [2], [3]], greedy(4), [0.0, 0.0, 0.0], clock=lambda: clock.now, sleep=clock.sleep)
    assert [one.ttft_s for one in found.times] == pytest.approx([0.5, 0.5, 2.5])


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    assert percentiles_ms([0.1 * n for n in range(1, 11)]) == {"p50": 500.0, "p90": 900.0, "p99": 1000.0}
    assert percentiles_ms([0.2]) == {"p50": 200.0, "p90": 200.0, "p99": 200.0}
    assert percentiles_ms([]) == {}


def test_arrivals_are_evenly_spaced_or_a_poisson_process_of_the_rate() -> None:
    assert arrival_times("all", 3, 0.0, 0) == [0.0, 0.0, 0.0]
    assert arrival_times("fixed", 3, 4.0, 0) == [0.0, 0.25, 0.5]
    found = arrival_times("poisson", 4001, 5.0, seed=1)
    assert (
        found == sorted(found) == arrival_times("poisson", 4001, 5.0, seed=1) != arrival_times("poisson", 4001, 5.0, 2)
    )
    gaps = [after - before for before, after in pairwise(found)]
    # mean and deviation of the exponential distribution are equal; four standard errors of 4,000 gaps are 6 %
    assert sum(gaps) / 4000 == pytest.approx(0.2, rel=0.07)
    assert (sum(gap**2 for gap in gaps) / 4000) == pytest.approx(2 * 0.04, rel=0.15)
    with pytest.raises(SettingError, match="rate is 0"):
        arrival_times("fixed", 3, 0.0, 0)


def test_prompts_share_what_they_should_and_nothing_else() -> None:
    prompts = make_prompts("random", 3, 20, 5, 10_000, shared=8, seed=0)
    assert all(len(one) == 20 and one[:8] == prompts[0][:8] for one in prompts)
    assert len({tuple(one[8:]) for one in prompts}) == 3
    with pytest.raises(SettingError, match="must be shorter"):
        make_prompts("random", 1, 8, 5, 1000, shared=8, seed=0)
    with pytest.raises(SettingError, match="vocabulary larger"):
        make_prompts("edit", 1, 512, 128, 2000, shared=0, seed=0)


def test_an_edit_holds_the_answer_with_mistakes_and_decoys_hold_its_beginnings() -> None:
    (edit,) = make_prompts("edit", 1, 400, 100, 100_000, shared=0, seed=0)
    first = edit[-1] + 1
    num_right = sum(token_id == first + place for place, token_id in enumerate(edit[:-1]))
    assert len(edit) == 400 and 340 < num_right < 399
    (decoys,) = make_prompts("decoys", 1, 400, 100, 100_000, shared=0, seed=0)
    first, pieces = decoys[-1] + 1, set(zip(decoys, decoys[1:], decoys[2:], strict=False))
    assert len(decoys) == 400
    assert sum((first + place, first + place + 1, first + place + 2) in pieces for place in range(0, 100, 10)) > 5


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("counting") / "model"
    write_synthesis(plan_synthesis(TINY, gptq_config("int4"), counts=True), directory)
    return directory


def verb(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert run(["bench", "throughput", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_verb_reports_a_load(capsys) -> None:
    found = verb(capsys, str(DEMO), "--requests", "5", "--prompt", "40", "--generate", "6", "--shared-prefix", "32")
    assert (found["requests"], found["output_tokens"], found["preemptions"]) == (5, 30, 0)
    assert found["output_tok_s"] == pytest.approx(30 / found["seconds"], rel=0.01)
    assert all(set(found[name]) == {"p50", "p90", "p99"} for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"))


COMPARED: dict[str, tuple[str, Callable[[dict], bool]]] = {
    "sequential": ("speed_up", lambda one: one["together_s"] > 0 and one["in_turn_s"] > 0),
    "raw": ("cost", lambda one: one["engine_step_ms"] > 0 and one["raw_step_ms"] > 0),
    "prefix": ("beyond_a_step", lambda one: one["cached_tokens"] == 48),
    "speculation": ("ratio", lambda one: one["off_tok_s"] > 0 and one["on_tok_s"] > 0),
}


@pytest.mark.parametrize("kind", COMPARED)
def test_the_verb_compares_in_rounds(capsys, kind: str) -> None:
    options = ["--requests", "3", "--prompt", "64", "--generate", "5", "--rounds", "2"]
    found = verb(capsys, str(DEMO), *options, "--compare", kind)
    name, holds = COMPARED[kind]
    assert len(found["rounds"]) == 2 and all(map(holds, found["rounds"])) and isinstance(found[name], float)


def test_what_can_be_predicted_takes_fewer_steps(counting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepCost, "of_a_token", lambda *_: 0.1)  # if measured, it depends on other processes
    network = load_model(counting, dtype="bf16", device="cpu")
    first = 20
    prompt = [*range(first, first + 30), first - 1]
    engine = Engine(network, EngineConfig(max_model_len=96))
    found = serve(engine, [prompt], greedy(25), [0.0])
    assert found.times[0].request.completion_ids == list(range(first, first + 25))
    assert len(found.times[0].output_s) < 15 and engine.speculation.num_accepted > 10


@pytest.mark.parametrize("arguments", [["--requests", "0"], ["--arrivals", "fixed", "--rate", "0"], ["--prompt", "1"]])
def test_a_load_that_makes_no_sense_is_refused(arguments: list[str], capsys) -> None:
    assert run(["bench", "throughput", str(DEMO), "--generate", "2", *arguments]) == 2
    assert "must be" in capsys.readouterr().err
