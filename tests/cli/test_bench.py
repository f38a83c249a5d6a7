"""`qwartet bench`: figures that hang together, and settings that are refused before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet.bench import ceilings, kernels, latency
from qwartet.bench.ceilings import Ceilings
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.cli.main import run
from qwartet.kernels.cpu import library as native
from qwartet.models.load import load_model
from qwartet.models.shapes import SHAPES, gptq_config
from tests.bench.tiny_shape import TINY

FAST = Ceilings(2, 50.0, 50.0, 2000.0, 1000.0, 500.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No measuring of the machine, small buffers, no writing outside the test."""
    monkeypatch.setenv("QWARTET_CACHE", str(tmp_path / "cache"))
    for module in (kernels, latency):
        monkeypatch.setattr(module, "measure_ceilings", lambda: FAST)
    monkeypatch.setattr(kernels, "ROTATED_BYTES", 100_000)
    monkeypatch.setitem(SHAPES, "1.8b", TINY)
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synthetic") / "model"
    write_synthesis(plan_synthesis(TINY, gptq_config("int4")), directory)
    return directory


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_latency_gives_the_promised_figures_and_they_hang_together(model: Path, capsys) -> None:
    options = ["--prompt", "40", "--generate", "3", "--context", "20", "--batch", "1,3", "--json"]
    assert run(["bench", "latency", str(model), *options]) == 0
    report = last_json(capsys)
    promised = {"prefill_tok_s", "decode_tok_s", "mbu", "mfu", "read_gb_s", "int8_gop_s", "peak_rss_bytes", "load_s"}
    assert promised | {"context", "batch_tok_s"} <= report.keys()
    assert all(report[name] > 0 for name in promised)
    assert report["context"] == 20 and set(report["batch_tok_s"]) == {"1", "3"}
    assert report["read_gb_s"] == pytest.approx(report["decode_tok_s"] * report["bytes_per_token"] / 1e9, rel=1e-2)
    assert report["mbu"] == pytest.approx(report["read_gb_s"] / FAST.read_gb_s, rel=1e-2, abs=1e-4)


def test_the_bytes_of_a_token_are_those_of_the_weights_that_it_reads(model: Path) -> None:
    network = load_model(model, dtype="bf16", head="exact")
    sizes = [(256, 768), (256, 256), (256, 384), (256, 384), (384, 256)]
    linears = sum(k * n // 2 + 2 * (k // 128) * n for k, n in sizes) + 4 * 768  # codes, scales, the bias of qkv
    head, embedding_row = 2 * TINY.vocab_size * 256, 2 * 256
    assert latency.weight_bytes_per_token(network) == 2 * linears + head + embedding_row


def test_kernels_measures_every_operation_at_every_number_of_rows(capsys) -> None:
    assert run(["bench", "kernels", "--shapes", "1.8b", "--rows", "1,5", "--context", "40", "--json"]) == 0
    results = last_json(capsys)["results"]
    operations = {result["operation"] for result in results}
    assert {"int4 qkv, int8", "int8 down, exact", "bf16 qkv", "attention over 40, int8"} <= operations
    assert {result["rows"] for result in results if result["operation"] == "int4 up, exact"} == {1, 5}
    assert all(result["seconds"] > 0 and result["share"] > 0 for result in results)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["latency", "MODEL", "--batch", "four"], "write whole numbers separated by commas"),
        (["latency", "MODEL", "--prompt", "0"], "prompt is 0"),
        (["latency", "MODEL", "--batch", "0"], "at least one request"),
        (["latency", "MODEL", "--context", "9999"], "this model's limit is 2048"),
        (["latency", "MODEL", "--threads", "0"], "--threads is 0"),
        (["kernels", "--shapes", "3b"], "'3b' is unknown; it must be one of 1.8b"),
        (["kernels", "--activations", "int3"], "'int3' is unknown; it must be one of int8, exact"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_to_give(model: Path, capsys, arguments, words) -> None:
    assert run(["bench", *(str(model) if word == "MODEL" else word for word in arguments)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert words in error and error.startswith("error: ")


def test_a_run_on_a_busy_machine_says_so(capsys, monkeypatch, tmp_path) -> None:
    assert ceilings._remember_best(2, 50.0) == 50.0
    assert ceilings._remember_best(2, 30.0) == 50.0, "kept between runs"
    assert ceilings._remember_best(1, 20.0) == 20.0, "for each number of threads"
    assert Ceilings(2, 44.0, 50.0, 1, 1, 1).is_low and not Ceilings(2, 46.0, 50.0, 1, 1, 1).is_low
    monkeypatch.setattr(kernels, "measure_ceilings", lambda: Ceilings(2, 30.0, 50.0, 1, 1, 1))
    assert run(["bench", "kernels", "--shapes", "1.8b", "--rows", "1", "--context", "16"]) == 0
    assert "was read at 50.0 GB/s on this machine before" in capsys.readouterr().out


def test_a_broken_memory_of_the_best_figure_does_no_harm(tmp_path) -> None:
    path = tmp_path / "cache" / "ceilings.json"
    path.parent.mkdir()
    path.write_text("[1, 2")
    assert ceilings._remember_best(2, 10.0) == 10.0
