"""`qwartet plan`: one table for people, one object for machines, and nothing but headers is read."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwartet import files
from qwartet.checkpoint.shards import Checkpoint
from qwartet.kernels.cpu.library import native_library
from qwartet.planning import memory_plan
from tests.cli.command_line import CommandLine, environment, listing
from tests.golden_data import REPOSITORY
from tests.tiny_checkpoint import NUM_RANKS, write_tiny_checkpoint


def planned(qwartet: CommandLine, *arguments: object) -> dict[str, Any]:
    outcome = qwartet("plan", *arguments, "--json")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    return json.loads(outcome.out)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets how many bytes are free beside what this process has taken."""

    def set_free(num_bytes: int) -> None:
        monkeypatch.setattr(memory_plan, "available_bytes", lambda _device: num_bytes)

    return set_free


def test_the_rows_of_a_checkpoint_add_up(qwartet: CommandLine, chat_model: Path) -> None:
    report = planned(qwartet, chat_model, "--context", "100", "--concurrency", "3")
    assert sum(report["rows"].values()) == report["total_bytes"]
    assert report["rows"]["KV cache"] == 3 * 112 * 2 * 2 * 128 * 2  # blocks of 16; layers, K and V, head_dim, bf16
    assert report["rows"]["tokenizer"] == NUM_RANKS * memory_plan.TOKENIZER_BYTES_PER_RANK
    assert (report["precision"], report["dtype"], report["kv_cache_dtype"]) == ("bf16", "bfloat16", "bf16")
    assert report["fits"] and report["free_bytes"] > report["total_bytes"]


def test_without_options_it_is_one_request_of_the_whole_context(qwartet: CommandLine, chat_model: Path) -> None:
    report = planned(qwartet, chat_model)
    assert (report["context"], report["concurrency"]) == (2048, 1)


def test_only_headers_are_read_and_nothing_is_written(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", bits=4)
    before = listing(tmp_path)
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a tensor was read"))
    assert planned(qwartet, directory)["precision"] == "int4"
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "size", "precision"),
    [
        ("Qwen/Qwen-72B-Chat-Int4", "72b", "int4"),
        ("qwen-1_8B-chat-int8", "1.8b", "int8"),
        ("modelscope:qwen/Qwen-14B", "14b", "bf16"),
        ("hf:Qwen/Qwen-7B-Chat", "7b", "bf16"),
        ("Qwen/Qwen2.5-1.5B-Instruct-GPTQ-Int4", "qwen2.5-1.5b", "int4"),
        ("modelscope:Qwen/Qwen3-4B-Base", "qwen3-4b", "bf16"),
        ("qwen3-0.6b-gptq-int8", "Qwen3-0.6B", "int8"),
    ],
)
def test_a_published_name_needs_no_download(qwartet: CommandLine, name: str, size: str, precision: str) -> None:
    by_name = planned(qwartet, name)
    assert by_name["precision"] == precision
    by_size = planned(qwartet, size, "--precision", precision)
    zeros = by_name["rows"]["linears"] - by_size["rows"]["linears"]
    assert zeros > 0 if "AWQ" in name else zeros == 0, "AWQ stores zeros, published GPTQ has none"


def test_awq_takes_the_zeros_too(qwartet: CommandLine) -> None:
    awq, gptq = (planned(qwartet, f"Qwen/Qwen2.5-0.5B-Instruct-{form}") for form in ("AWQ", "GPTQ-Int4"))
    assert awq["precision"] == gptq["precision"] == "int4"
    assert 0.97 < awq["rows"]["linears"] / gptq["rows"]["linears"] < 1.03


def test_the_question_of_the_card_is_answered_first(qwartet: CommandLine) -> None:
    """Does Qwen-72B-Chat-Int4 run in 48 GB?"""
    arguments = ["Qwen/Qwen-72B-Chat-Int4", "--gpus", "1", "--gpu-memory", "48GB", "--gpu-bandwidth", "2039"]
    report, lines = planned(qwartet, *arguments), qwartet("plan", *arguments).out.splitlines()
    (gpu,) = report["gpus"]
    assert not gpu["fits"] and gpu["largest_contexts"]["bf16"] > 3000
    assert lines[2].startswith("GPUs of 48 GiB: calculated")
    assert f"--context {gpu['largest_contexts']['bf16']:,} (bf16 KV cache)" in lines[3]
    assert f"at most {gpu['speed']['most_tokens_per_s']:.1f} tokens/s" in lines[5]
    assert any("11.67     48.86 GiB" in line for line in lines) and "GB are GiB" in "".join(lines)
    fitting = planned(qwartet, *arguments, "--context", gpu["largest_contexts"]["bf16"])
    assert fitting["gpus"][0]["fits"] and fitting["gpus"][0]["largest_concurrency"] == 1


def test_the_speed_follows_from_the_bandwidth_that_is_given(qwartet: CommandLine) -> None:
    speeds = [planned(qwartet, "1.8b", "--bandwidth", rate)["speed"]["most_tokens_per_s"] for rate in (40, 80)]
    assert speeds[1] == pytest.approx(2 * speeds[0], rel=0.01)


@pytest.mark.parametrize("name", ["72b", "72B"])
def test_a_published_size_needs_no_files(qwartet: CommandLine, name: str, free) -> None:
    free(64 * 2**30)
    report = planned(qwartet, name, "--precision", "int4", "--context", "6144")
    assert report["kv_caches"][0]["bytes_per_token"] == 2_621_440
    assert report["rows"]["KV cache"] == 6144 * 2_621_440
    assert [gpu["gpus"] for gpu in report["gpus"]] == [1, 2, 4]
    assert 41.0e9 <= report["gpus"][0]["rows"]["weights"] <= 41.25e9
    assert report["stream"] is None


def test_int4_is_the_precision_of_a_published_size_unless_another_is_given(qwartet: CommandLine) -> None:
    sizes = [planned(qwartet, "1.8b", *options)["weights_bytes"] for options in ([], ["--precision", "int4"])]
    assert sizes[0] == sizes[1] < planned(qwartet, "1.8b", "--precision", "bf16")["weights_bytes"]


def test_the_table_has_a_line_for_each_kind_of_cache(qwartet: CommandLine, free) -> None:
    free(4 * 2**30)
    report = planned(qwartet, "1.8b", "--concurrency", "16")
    kinds = {kind["kv_cache_dtype"]: kind for kind in report["kv_caches"]}
    assert list(kinds) == ["bf16", "int8", "int4"]
    assert kinds["bf16"]["largest_context"] < kinds["int8"]["largest_context"] < kinds["int4"]["largest_context"]
    assert not report["fits"] and report["largest_context"] == kinds["bf16"]["largest_context"]
    out = qwartet("plan", "1.8b", "--concurrency", "16").out
    assert f"--context {report['largest_context']} or --concurrency {report['largest_concurrency']}" in out


def test_what_would_fit_does_fit(qwartet: CommandLine, free) -> None:
    free(4 * 2**30)
    context = planned(qwartet, "1.8b", "--concurrency", "16")["largest_context"]
    assert planned(qwartet, "1.8b", "--concurrency", "16", "--context", context)["fits"]


@pytest.mark.skipif(native_library() is None, reason="the guide counts the head's 8-bit copy, which is native")
def test_the_guide_to_the_72b_model_quotes_the_plan(qwartet: CommandLine) -> None:
    text = (REPOSITORY / "docs" / "serve_72b.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) GiB \| one request of (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 2
    plan = planned(qwartet, "Qwen/Qwen-72B-Chat-Int4", "--bandwidth", "80")
    kinds = plan["kv_caches"]
    own = plan["rows"]["the process itself"] - 2**28  # that of the tests has loaded more than that of a user
    for size, contexts in rows:
        left = [int(size) * 2**30 - kind["total_bytes"] + kind["cache_bytes"] + own for kind in kinds]
        fitting = [min(room / kind["bytes_per_token"], 32_768) for room, kind in zip(left, kinds, strict=True)]
        quoted = [int(number.replace(",", "")) for number in re.findall(r"[\d,]{5,}", contexts)]
        assert fitting == pytest.approx(quoted, rel=0.02)  # the process itself is counted too
    (gpu,) = planned(qwartet, "Qwen/Qwen-72B-Chat-Int4", "--gpus", "1", "--gpu-memory", "48GiB")["gpus"]
    assert [context for context in gpu["largest_contexts"].values() if f"{context:,}" not in text] == []


def test_the_text_has_gib_and_says_whether_it_fits(qwartet: CommandLine, free) -> None:
    free(2**40)
    outcome = qwartet("plan", "1.8b", "--context", "1K", "--concurrency", "2")
    assert (outcome.code, outcome.err) == (0, "")
    for fragment in ("2 requests of 1,024 tokens", "0.375 GiB", "fits, ", "GPUs: calculated", "--gpu-memory"):
        assert fragment in outcome.out
    assert "402,653,184" not in outcome.out  # bytes are for machines
    assert outcome.out.index("CPU of this machine") < outcome.out.index("GPUs: calculated")


def test_fine_tuning_has_a_plan_of_its_own(qwartet: CommandLine, free) -> None:
    free(2**40)
    arguments = ("1.8b", "--finetune", "qlora", "--context", "256")
    report = planned(qwartet, *arguments)
    assert sum(report["rows"].values()) == report["total_bytes"]
    assert report["trained_parameters"] == 53_673_984 and report["fits"]
    text = qwartet("plan", *arguments).out
    for fragment in ("1 x 256 tokens per step, 53,673,984 trained parameters", "fits, ", "AdamW", "gradients"):
        assert fragment in text
    free(0)
    text = qwartet("plan", *arguments[:4], "512", "--no-gradient-checkpointing").out
    assert "short; needs less: --gradient-checkpointing or --context 256" in text


def test_quantising_has_a_plan_of_its_own(qwartet: CommandLine, free) -> None:
    free(2**40)
    arguments = ("1.8b", "--quantize", "int4", "--num-samples", "64", "--context", "512")
    report = planned(qwartet, *arguments)
    assert report["calibration_tokens"] == 64 * 512 and report["dtype"] == "float32" and report["fits"]
    assert report["total_bytes"] == max(sum(report["rows"].values()), report["writing_bytes"])
    assert report["rows"]["Hessian"] == 4 * 5504**2
    assert report["rows"]["activations of the calibration"] == 64 * 512 * 4 * (2048 + 5504)
    assert report["disk_bytes"]["result"] == 1_878_036_480  # linears in Int4, the rest in fp16
    assert 0 < report["disk_bytes"]["finished blocks"] < report["disk_bytes"]["result"]
    text = qwartet("plan", *arguments).out
    assert text.startswith("1.8b to int4: 32,768 calibration tokens, forward passes in float32\nfits, ")
    assert "Hessian  " in text and "disk:" in text
    spilled = planned(qwartet, *arguments, "--spill")
    assert "activations of the calibration" not in spilled["rows"]
    assert spilled["disk_bytes"]["activations"] == report["rows"]["activations of the calibration"]
    rows = planned(qwartet, *arguments, "--dtype", "bf16")["rows"]
    assert rows["weights of a block"] == report["rows"]["weights of a block"] // 2
    assert sum(rows.values()) < sum(report["rows"].values())


def test_a_plan_of_quantising_that_does_not_fit_says_what_needs_less(qwartet: CommandLine, free) -> None:
    free(0)
    arguments = ("7b", "--quantize", "int8")
    report, text = planned(qwartet, *arguments), qwartet("plan", *arguments).out
    assert report["calibration_tokens"] == 128 * 2048 and not report["fits"]
    assert "short; needs less: --spill or --num-samples 64 or --dtype bf16" in text
    options = ("--spill", "--dtype", "bf16")
    assert "short; needs less: a smaller model" in qwartet("plan", *arguments, *options).out


def test_quantising_on_a_gpu_takes_the_block_there(qwartet: CommandLine, free) -> None:
    free(2**40)
    arguments = ("72b", "--quantize", "int4", "--dtype", "bf16", "--gpu-memory")
    report = planned(qwartet, *arguments, "80GB")
    assert report["fits"] and report["gpu_bytes"] == sum(report["gpu_rows"].values()) < 80 * 2**30
    assert set(report["rows"]) == {"activations of the calibration", "the process itself"}
    small = planned(qwartet, *arguments, "8GB")
    assert not small["fits"] and small["would_need_less"] == [], "activations are not what the GPU is short of"
    text = qwartet("plan", *arguments, "8GB").out
    assert text.index("GPU:") < text.index("memory:") and "GiB short; needs less: a smaller model" in text


def test_weights_that_do_not_fit_are_streamed_or_refused(qwartet: CommandLine, free) -> None:
    free(20 * 2**30)
    streamed, refused = (qwartet("plan", "72b", *options).out for options in ([], ["--dtype", "fp32"]))
    assert "does not fit: the weights alone take" in streamed and "does not fit: the weights alone take" in refused
    if "copy of the head" in streamed:  # with the native library
        assert "of 80 layers stay in memory" in streamed and "read from disk for every token" in streamed
    assert "cannot stream from disk" in refused


def test_the_speed_of_the_disk_is_told_where_the_files_are(
    qwartet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free
) -> None:
    free(-(10**12))
    monkeypatch.setattr(files, "disk_read_speed", lambda _path: 2e9)
    report = planned(qwartet, write_tiny_checkpoint(tmp_path / "model"))
    assert report["stream"] is None or report["stream"]["disk_bytes_per_s"] == 2e9


def test_a_checkpoint_that_is_broken_is_one_line(qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    (directory / "config.json").unlink()
    qwartet("plan", directory).assert_one_line_error("config.json: file is missing")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["7b", "--context", "32769"], ["context is 32769 tokens", "between 2 and 32768"]),
        (["7b", "--context", "0"], ["'0' is not a whole number"]),
        (["7b", "--context", "1"], ["context is 1 tokens"]),
        (["7b", "--context", "9" * 40], ["is not a whole number"]),
        (["7b", "--concurrency", "0"], ["concurrency is 0 requests"]),
        (["7b", "--concurrency", "-3"], ["concurrency is -3 requests"]),
        (["7b", "--concurrency", "9" * 40], ["between 1 and 65536"]),
        (["7b", "--kv-cache-dtype", "int3"], ["'int3'"]),
        (["7b", "--gpus", "33"], ["gpus is 33", "1 to 32"]),
        (["7b", "--gpu-memory", "48"], ["'48' is not a memory size; write 48GiB"]),
        (["7b", "--gpu-bandwidth", "nan"], ["--gpu-bandwidth is nan; set GB/s"]),
        (["7b", "--bandwidth", "0"], ["--bandwidth is 0; set GB/s"]),
        (["7b", "--finetune", "lora"], ["--finetune lora needs a float model, and 7b is int4"]),
        (["7b", "--precision", "bf16", "--finetune", "qlora"], ["--finetune qlora needs an Int4 or Int8 model"]),
        (["7b", "--finetune", "qlora", "--batch-size", "0"], ["batch size is 0 and rank 64"]),
        (["7b", "--precision", "int4", "--quantize", "int4"], ["--quantize needs a float model, and 7b is int4"]),
        (["7b", "--finetune", "lora", "--quantize", "int4"], ["--finetune and --quantize are two plans"]),
        (["7b", "--quantize", "int4", "--context", "32769"], ["context is 32769 tokens", "between 1 and 32768"]),
        (["7b", "--quantize", "int4", "--num-samples", "0"], ["num_samples is 0 and max_len is 2048"]),
        (["3b"], ["3b: no such directory", "1.8b, 7b, 14b, 72b"]),
        (["/nowhere"], ["/nowhere: no such directory"]),
        (["7b", "--revision", "main"], ["--revision needs a hub id"]),
        (["/nowhere", "--precision", "int4"], ["--precision needs a published size"]),
        ([], ["'MODEL'"]),
    ],
)
def test_a_wrong_argument_is_one_line(qwartet: CommandLine, arguments: list[str], fragments: list[str]) -> None:
    qwartet("plan", *arguments).assert_one_line_error(*fragments)


def test_its_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from qwartet.cli.main import run; run(['plan', '--help'])\n"
        "print([name for name in ('torch', 'numpy', 'huggingface_hub') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert ast.literal_eval(result.stderr) == []
    assert "Usage: qwartet plan " in result.stdout
