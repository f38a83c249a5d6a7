"""The processes of a profile: what they forecast and measure, and what is said of those that end without a word."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from qwartet import DEMO
from qwartet.bench.profile import child, measure, task
from qwartet.bench.profile.forecast import forecast_rows
from qwartet.bench.profile.measure import PROMPT, PROMPT_ID, measure_row, prompt_ids
from qwartet.bench.profile.row import Measured, forecast_of
from qwartet.bench.profile.task import Failure, run_task
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.errors import CheckpointError, OutOfMemoryError, SettingError
from qwartet.llm import LLM
from qwartet.models.load import load_model
from qwartet.models.shapes import SHAPES, gptq_config
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from tests.bench.tiny_shape import TINY
from tests.golden_data import REPOSITORY, real_vocabulary

MEASURE = {
    "task": "measure", "model": str(DEMO), "threads": 1, "device": "cpu", "context": 64, "generate": 8,
    "kv_cache_dtype": "auto",
}  # fmt: skip


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synthetic") / "model"
    write_synthesis(plan_synthesis(TINY, gptq_config("int4")), directory)
    return directory


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a shell script in place of Python; `exec $PYTHON "$@"` goes on as usual."""

    def run_script(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\nPYTHON={sys.executable}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(task.sys, "executable", str(path))

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return run_script


# --- a row


def test_a_row_is_measured_with_exactly_its_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PROGRESS_S", 0.0)
    seen: list[tuple[int, int]] = []
    found = measure_row(
        DEMO, device="cpu", context=600, generate=8, kv_cache_dtype="auto",
        on_progress=lambda prompt, generated: seen.append((prompt, generated)),
    )  # fmt: skip
    assert 0 < found.first_token_s < found.seconds and found.peak_bytes > 2**20
    assert seen[0] == (512, 0), "the first chunk of the prompt"
    assert seen[1:] == [(600, number) for number in range(1, 9)]


def test_stop_tokens_do_not_end_a_row(synthetic: Path) -> None:
    """Its id of <|endoftext|> is as probable as any."""
    assert measure_row(synthetic, device="cpu", context=1, generate=200, kv_cache_dtype="int8").seconds > 0


def test_the_prompt_is_one_token_repeated(synthetic: Path) -> None:
    with LLM(DEMO) as llm:
        ids = prompt_ids(llm, 5)
        assert llm.tokenizer.decode(ids) == "我" * 5 and len(set(ids)) == 1
    with LLM(synthetic) as llm:
        assert prompt_ids(llm, 3) == [TINY.vocab_size - 1] * 3, "the published id lies outside this vocabulary"


def test_the_prompts_id_is_that_of_the_published_vocabulary() -> None:
    tokenizer = TiktokenTokenizer.load(real_vocabulary())
    assert tokenizer.encode(PROMPT * 100) == [PROMPT_ID] * 100


def test_a_process_measures_as_this_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    found = run_task(MEASURE, {"QWARTET_CPU_ISA": "none"})
    assert not isinstance(found, Failure), found
    measured = Measured(**found)
    assert 0 < measured.first_token_s < measured.seconds and measured.threads == 1
    assert measured.kernels["attention"].startswith("reference"), "the environment is the setting's"


# --- a forecast


def test_a_forecast_counts_the_work_of_prompt_and_tokens(synthetic: Path) -> None:
    found = forecast_rows(synthetic, [(1000, 8), (2041, 8)], ["auto", "int8"], None, "exact")
    assert (found["precision"], found["max_length"], found["size"]) == ("int4", 2048, None)
    kinds = [(row["kv_cache_dtype"], row["context"], row["forecast"] is None) for row in found["rows"]]
    assert kinds == [("bf16", 1000, False), ("int8", 1000, False), ("bf16", 2041, True), ("int8", 2041, True)]
    made = forecast_of(found["rows"][0]["forecast"])
    linears = 2 * (256 * 768 + 256 * 256 + 3 * 256 * 384)  # two layers
    head, attention = 256 * TINY.vocab_size, 4 * 2 * 2 * 128  # of one key: two layers, two heads
    assert made.decode.operations == 2 * (linears + head) + attention * 1004, "in the middle of the answer"
    assert made.prefill.operations == 2 * (1000 * linears + head) + attention * 1000 * 1001 // 2
    network, token = load_model(synthetic, head="exact"), 2 * 2 * 2 * 2 * 128
    layers = made.decode.num_bytes - network.lm_head.weight.nbytes - 1004 * token
    assert made.prefill.num_bytes == 2 * layers + network.lm_head.weight.nbytes + (512 + 1000) * token, "two chunks"
    assert made.fits and made.peak_unpacked_bytes >= made.peak_bytes >= made.total_bytes


def test_a_published_shape_is_recognised(monkeypatch: pytest.MonkeyPatch, synthetic: Path) -> None:
    monkeypatch.setitem(SHAPES, "1.8b", TINY)
    assert forecast_rows(synthetic, [(1, 1)], ["auto"], None, "auto")["size"] == "1.8b"


def test_a_wrong_checkpoint_is_named_as_by_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    forecast = {"lengths": [[1, 1]], "kv_cache_dtypes": ["auto"], "activations": None, "head": "auto"}
    found = run_task({"task": "forecast", "model": str(tmp_path), "threads": None, **forecast}, {})
    with pytest.raises(CheckpointError) as loading:
        load_model(tmp_path)
    assert found == Failure(str(loading.value), is_out_of_memory=False)


# --- how a process ends


def test_progress_and_result_are_told_apart(instead) -> None:
    lines = [{"progress": [5, 0]}, {"progress": [5, 1]}, {"result": {"seconds": 1}}]
    instead("cat > /dev/null\n" + "\n".join(f"echo '{json.dumps(line)}'; echo noise" for line in lines))
    seen: list[tuple[int, int]] = []
    assert run_task(MEASURE, {}, lambda prompt, generated: seen.append((prompt, generated))) == {"seconds": 1}
    assert seen == [(5, 0), (5, 1)]


@pytest.mark.parametrize(
    ("error", "is_out_of_memory"),
    [
        (OutOfMemoryError("the KV cache does not fit"), True),
        (MemoryError("numpy could not allocate"), True),
        (SettingError("max_model_len is 9"), False),
    ],
)
def test_a_process_says_why_it_has_no_result(monkeypatch, capsys, error: Exception, is_out_of_memory: bool) -> None:
    def measure_row(*_: object, **__: object) -> None:
        print("noise of a library")
        raise error

    monkeypatch.setattr(measure, "measure_row", measure_row)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**MEASURE, "threads": None})))
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # main replaces it
    child.main()
    assert json.loads(capsys.readouterr().out) == {"error": str(error), "is_out_of_memory": is_out_of_memory}


@pytest.mark.parametrize(
    ("script", "reason", "is_out_of_memory"),
    [
        ("kill -9 $$", "signal 9", True),
        ("echo first >&2; echo 'it broke' >&2; exit 3", "ended with code 3 (it broke)", False),
        ("exit 0", "ended with code 0 (nothing on stderr)", False),
        ("echo \"terminate called after throwing an instance of 'std::bad_alloc'\" >&2; exit 1", "bad_alloc", True),
        ("kill -11 $$", "SIGSEGV", False),
    ],
)
def test_a_process_that_ends_without_a_word_is_explained(instead, script: str, reason: str, is_out_of_memory) -> None:
    instead(script)
    found = run_task(MEASURE, {})
    assert isinstance(found, Failure) and reason in found.reason and found.is_out_of_memory == is_out_of_memory


def test_an_interrupted_run_leaves_no_process_behind(instead, tmp_path: Path) -> None:
    instead(f"echo $$ > {tmp_path}/pid; echo '{{\"progress\": [1, 0]}}'; exec sleep 600")

    def interrupt(_prompt: int, _generated: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(MEASURE, {}, interrupt)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
