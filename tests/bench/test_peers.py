"""llama.cpp as a peer: its input file, what is read from its output, and how runs of ours alternate with it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwartet.bench.peers import gguf_file
from qwartet.bench.peers.alternation import Speed, measure_command, median_speed, paired_ratios, take_turns
from qwartet.bench.peers.gguf_file import gguf_name, gguf_tensors, read_gguf_name, write_gguf
from qwartet.bench.peers.llama_cpp import BatchSpeed, run_batched_bench, run_llama_bench
from qwartet.cli.main import run as command_line
from qwartet.errors import SettingError
from qwartet.models.families import parse_config
from qwartet.models.shapes import ALL_SHAPES, SHAPES, config_json
from tests.bench.tiny_shape import TINY

# Prints what llama.cpp prints for the requested sizes; appends its arguments to a file beside itself.
FAKE_LLAMA_CPP = """#!{python}
import json, pathlib, sys
with pathlib.Path(__file__).with_suffix(".calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(options["-m"]).is_file()
if "-npl" in options:
    for pl in map(int, options["-npl"].split(",")):
        print(json.dumps({{"pl": pl, "speed_pp": 10.0 * pl, "speed_tg": 2.5 * pl}}))
    print()
else:
    common = {{"model_size": 1000, "model_n_params": 500, "n_threads": int(options["-t"]),
              "build_number": 7, "build_commit": "abc"}}
    print(json.dumps([
        {{**common, "n_prompt": int(options["-p"]), "n_gen": 0, "avg_ts": 100.0}},
        {{**common, "n_prompt": 0, "n_gen": int(options["-n"]), "avg_ts": 20.0}},
    ]))
"""

Script = Callable[[str, str], Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def fake(script: Script) -> Path:
    return script("llama-fake", FAKE_LLAMA_CPP.format(python=sys.executable))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").touch()
    return tmp_path / "model.gguf"


def calls(fake: Path) -> list[dict[str, str]]:
    lines = fake.with_suffix(".calls").read_text().splitlines()
    return [dict(zip(words[::2], words[1::2], strict=True)) for words in map(json.loads, lines)]


def printing(text: str) -> str:
    """A command line that prints a text."""
    return shlex.join([sys.executable, "-c", f"print({text!r})"])


# --- the file


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="the package gguf (extra: peers) is not installed")


def test_the_file_has_the_keys_of_llama_cpp_s_converter(gguf, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", TINY)
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    found = {
        name: fields[name].contents() for name in fields if name.startswith(("qwen.", "general.arch", "tokenizer"))
    }
    config = config_json(TINY, None)
    assert found.pop("qwen.attention.layer_norm_rms_epsilon") == pytest.approx(config["layer_norm_epsilon"])
    assert found == {
        "general.architecture": "qwen",
        "qwen.context_length": config["max_position_embeddings"],
        "qwen.block_count": config["num_hidden_layers"],
        "qwen.embedding_length": config["hidden_size"],
        "qwen.feed_forward_length": config["intermediate_size"],  # the file's number: the loader halves it
        "qwen.attention.head_count": config["num_attention_heads"],
        "qwen.rope.freq_base": config["rotary_emb_base"],
        "qwen.rope.dimension_count": config["kv_channels"],
        "qwen.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "none",
    }


@pytest.mark.parametrize(("body", "head"), [("q4_0", "f16"), ("q4_0", "q4_0"), ("q4_0", "q6_k"), ("q8_0", "q8_0")])
def test_every_tensor_reads_back_with_its_shape_its_type_and_its_deviation(gguf, tmp_path: Path, body, head) -> None:
    write_gguf(tmp_path / "model.gguf", TINY, body=body, head=head)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    expected = gguf_tensors(TINY, body, head)
    assert list(found) == [tensor.name for tensor in expected]
    for tensor in expected:
        other = found[tensor.name]
        assert tuple(map(int, other.shape)) == tensor.shape[::-1]
        assert other.tensor_type.name == tensor.type.upper()
        values = gguf.dequantize(other.data, other.tensor_type)
        if tensor.std:
            assert abs(values.mean()) < 0.15 * tensor.std
            assert values.std() == pytest.approx(tensor.std, rel=0.15)
        else:
            assert (values == 1).all()


LATER = {
    name: replace(ALL_SHAPES[name], hidden_size=256, num_layers=2, num_heads=6, kv_heads=2, head_dim=64, num_ranks=600,
                  intermediate_size=384, vocab_size=640, max_position_embeddings=512)
    for name in ("qwen2.5-1.5b", "qwen2.5-7b", "qwen3-1.7b", "qwen3-8b")
}  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_the_file_of_a_later_family_has_the_keys_of_its_architecture(gguf, tmp_path: Path, name: str) -> None:
    shape = LATER[name]
    write_gguf(tmp_path / "model.gguf", shape, head="q6_k")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    prefix = f"{shape.family}."
    found = {key: reader.fields[key].contents() for key in reader.fields if key.startswith((prefix, "general.arch"))}
    assert found.pop(f"{prefix}attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    numbers = {
        "context_length": 512, "block_count": 2, "embedding_length": 256, "feed_forward_length": 384,
        "attention.head_count": 6, "attention.head_count_kv": 2, "attention.key_length": 64,
        "attention.value_length": 64, "rope.freq_base": 1e6, "rope.dimension_count": 64, "vocab_size": 640,
    }  # fmt: skip
    assert found == {"general.architecture": shape.family} | {prefix + key: value for key, value in numbers.items()}
    types = {tensor.name: (tensor.tensor_type.name, tuple(map(int, tensor.shape))) for tensor in reader.tensors}
    is_tied = name in ("qwen2.5-1.5b", "qwen3-1.7b")
    assert types["token_embd.weight"] == ("Q6_K" if is_tied else "Q4_0", (256, 640))
    assert types.get("output.weight") == (None if is_tied else ("Q6_K", (256, 640)))
    assert types["blk.1.attn_q.weight"] == ("Q4_0", (256, 384)) and types["blk.1.attn_v.weight"] == ("Q4_0", (256, 128))
    assert types["blk.1.attn_output.weight"] == ("Q4_0", (384, 256))
    if shape.family == "qwen2":
        assert types["blk.0.attn_k.bias"] == ("F32", (128,)) and "blk.0.attn_q_norm.weight" not in types
    else:
        assert types["blk.0.attn_k_norm.weight"] == ("F32", (64,)) and "blk.0.attn_k.bias" not in types


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_the_tensors_hold_the_parameters_of_the_model(name: str) -> None:
    config = parse_config(config_json(ALL_SHAPES[name], None), Path("config.json"))
    assert sum(tensor.num_values for tensor in gguf_tensors(ALL_SHAPES[name], "q4_0", "f16")) == config.num_parameters


def test_the_heaviest_tensors_have_the_types_that_were_asked_for(gguf, tmp_path: Path) -> None:
    types = {tensor.name: tensor.type for tensor in gguf_tensors(TINY, "q4_0", "f16")}
    assert (types["output.weight"], types["token_embd.weight"], types["blk.1.ffn_down.weight"]) == (
        "f16",
        "q4_0",
        "q4_0",
    )


def test_the_number_of_values_is_the_published_number_of_parameters() -> None:
    values = sum(tensor.num_values for tensor in gguf_tensors(SHAPES["72b"], "q4_0", "f16"))
    assert values == 72_287_920_128


def test_the_file_is_the_same_for_the_same_seed(gguf, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_gguf(tmp_path / name, TINY, seed=seed)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again != other


def test_its_name_tells_files_of_different_content_apart(gguf, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", TINY, head="q4_0", seed=3)
    assert read_gguf_name(tmp_path / "model.gguf") == gguf_name(TINY, "q4_0", "q4_0", 3)
    variants = [(TINY, "f16", 0), (TINY, "q4_0", 0), (TINY, "f16", 1), (replace(TINY, num_layers=1), "f16", 0)]
    assert len({gguf_name(shape, "q4_0", head, seed) for shape, head, seed in variants}) == 4


def test_a_file_that_is_not_finished_is_removed(gguf, tmp_path: Path) -> None:
    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(tmp_path / "model.gguf", TINY, on_bytes=stop)
    assert list(tmp_path.iterdir()) == []


def test_values_come_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "SLICE_BYTES", 2000)
    for tensor in gguf_tensors(TINY, "q4_0", "f16"):
        parts = [part.nbytes for part in tensor.values(0)]
        assert sum(parts) == tensor.nbytes
        assert max(parts) <= 2000


def test_a_type_whose_blocks_do_not_fit_the_shape_is_refused() -> None:
    with pytest.raises(SettingError, match=r"has 384 inputs, and q6_k has blocks of 256"):
        gguf_tensors(replace(TINY, hidden_size=384, num_heads=3), "q4_0", "q6_k")


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SettingError, match=r"pip install 'qwartet\[peers\]'"):
        write_gguf(tmp_path / "model.gguf", TINY)


def test_something_else_than_gguf_is_one_error(gguf, tmp_path: Path) -> None:
    for content in (b"", b"nothing of the kind", b"GGUF" + bytes(100)):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(SettingError, match="cannot be read as GGUF"):
            read_gguf_name(tmp_path / "other")


# --- llama.cpp's output


def test_llama_bench_is_asked_for_our_sizes_and_its_figures_are_read(fake: Path, model: Path) -> None:
    found = run_llama_bench(fake, model, threads=3)
    assert found.speed == Speed(prefill_tok_s=100.0, decode_tok_s=20.0)
    assert (found.build, found.model_bytes, found.num_parameters, found.threads) == ("7 (abc)", 1000, 500, 3)
    (options,) = calls(fake)
    assert (options["-p"], options["-n"], options["-t"], options["-ngl"]) == ("512", "64", "3", "0")


def test_batched_bench_has_context_for_its_largest_batch(fake: Path, model: Path) -> None:
    found = run_batched_bench(fake, model, threads=2, batch_sizes=(1, 8), prompt_tokens=200, completion_tokens=100)
    assert found == [BatchSpeed(1, 10.0, 2.5), BatchSpeed(8, 80.0, 20.0)]
    assert calls(fake)[0]["-c"] == str(8 * 512)


@pytest.mark.parametrize("output", ["", "[]", "no JSON", '[{"n_prompt": 512, "n_gen": 0, "avg_ts": 0}]'])
def test_other_output_is_an_error_that_names_the_program(script: Script, model: Path, output: str) -> None:
    program = script("llama-odd", f"#!{sys.executable}\nprint({output!r})\n")
    for measure in (run_llama_bench, run_batched_bench):
        with pytest.raises(SettingError, match="llama-odd did not print the expected results"):
            measure(program, model, threads=1)


def test_a_program_that_fails_is_an_error_with_its_last_words(script: Script, model: Path) -> None:
    program = script("llama-bad", f"#!{sys.executable}\nimport sys\nsys.exit('first\\nno such model')\n")
    with pytest.raises(SettingError, match=r"llama-bad exited with 1 \(no such model\)"):
        run_llama_bench(program, model, threads=1)


# --- taking turns


def test_sides_take_turns_and_each_run_is_announced() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) or Speed(len(order), 1.0) for name in ("ours", "peer")}
    announced: list[tuple[int, str]] = []
    found = take_turns(sides, 2, lambda number, side: announced.append((number, side)))
    assert order == ["ours", "peer", "ours", "peer"]
    assert announced == [(0, "ours"), (0, "peer"), (1, "ours"), (1, "peer")]
    assert [speed.prefill_tok_s for speed in found["ours"]] == [1, 3]


def test_a_ratio_belongs_to_a_pair_and_the_median_is_that_of_the_ratios() -> None:
    ours = [Speed(200.0, 30.0), Speed(50.0, 10.0), Speed(90.0, 40.0)]
    peer = [Speed(100.0, 20.0), Speed(50.0, 20.0), Speed(30.0, 10.0)]
    ratios = paired_ratios(ours, peer)
    assert ratios == [Speed(2.0, 1.5), Speed(1.0, 0.5), Speed(3.0, 4.0)]
    assert median_speed(ratios) == Speed(2.0, 1.5)
    assert median_speed(ours[:2]) == Speed(125.0, 20.0)


def test_our_command_is_read_from_its_last_line() -> None:
    report = json.dumps({"prefill_tok_s": 250, "decode_tok_s": 31.5, "more": None})
    assert measure_command(printing(f"a table\n{report}")) == Speed(250.0, 31.5)


@pytest.mark.parametrize(
    "output", ["", "done", "[1]", '{"prefill_tok_s": 1}', '{"prefill_tok_s": 1, "decode_tok_s": 0}']
)
def test_a_command_without_two_speeds_is_refused(output: str) -> None:
    with pytest.raises(SettingError, match="not a JSON object with prefill_tok_s and decode_tok_s"):
        measure_command(printing(output))


def test_a_command_that_cannot_start_is_refused() -> None:
    for command, words in (("/nowhere/at/all", "cannot be started"), ("", "the command is empty")):
        with pytest.raises(SettingError, match=words):
            measure_command(command)


# --- the whole


@pytest.fixture
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_SHAPES, "1.8b", TINY)


@pytest.mark.usefixtures("tiny_sizes")
def test_a_comparison_gives_rounds_ratios_medians_and_batches(gguf, fake: Path, capsys) -> None:
    ours = printing(json.dumps({"prefill_tok_s": 250, "decode_tok_s": 30}))
    options = ["--llama-bench", str(fake), "--batched-bench", str(fake), "--ours", ours, "--rounds", "2"]
    assert command_line(["bench", "peer", "1.8b", *options, "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert report["rounds"]["ratio"] == [{"prefill_tok_s": 2.5, "decode_tok_s": 1.5}] * 2
    assert report["median"]["peer"] == {"prefill_tok_s": 100.0, "decode_tok_s": 20.0}
    assert [batch["num_requests"] for batch in report["batches"]] == [1, 4, 8, 16]
    assert report["model"] == "tiny, 2 layers, q4_0, head f16, random weights (seed 0)"
    assert "round 2 of 2: llama-bench" in captured.err
    assert len(calls(fake)) == 3


@pytest.mark.usefixtures("tiny_sizes")
def test_without_a_command_of_ours_the_peer_is_measured_alone(gguf, fake: Path, capsys) -> None:
    assert command_line(["bench", "peer", "1.8b", "--llama-bench", str(fake), "--rounds", "2"]) == 0
    title, columns, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("llama.cpp 7 (abc), 2 threads: tiny, ")
    assert columns.split() == ["round", "prefill", "peer", "decode", "peer"]
    assert [row.split() for row in rows] == [[label, "100.00", "20.00"] for label in ("1", "2", "median")]


@pytest.mark.usefixtures("tiny_sizes")
def test_a_named_file_is_kept_used_again_and_not_taken_for_another(gguf, fake: Path, tmp_path: Path, capsys) -> None:
    options = [
        "bench",
        "peer",
        "1.8b",
        "--llama-bench",
        str(fake),
        "--rounds",
        "1",
        "--gguf",
        str(tmp_path / "kept.gguf"),
    ]
    assert command_line(options) == 0
    before = (tmp_path / "kept.gguf").stat()
    assert command_line(options) == 0
    assert (tmp_path / "kept.gguf").stat().st_mtime_ns == before.st_mtime_ns
    assert command_line([*options, "--head", "q4_0"]) == 2
    assert "head f16" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_sizes")
@pytest.mark.parametrize(
    ("options", "words"),
    [(["--rounds", "0"], "rounds is 0"), (["--threads", "0"], "threads is 0"), (["--layers", "0"], "layers is 0")],
)
def test_a_wrong_option_is_refused_before_anything_runs(fake: Path, capsys, options: list[str], words: str) -> None:
    assert command_line(["bench", "peer", "1.8b", "--llama-bench", str(fake), *options]) == 2
    assert words in capsys.readouterr().err
    assert not fake.with_suffix(".calls").exists()


def test_a_program_that_is_not_there_is_refused_before_a_file_is_written(tmp_path: Path, capsys) -> None:
    options = [
        "bench",
        "peer",
        "72b",
        "--llama-bench",
        str(tmp_path / "absent"),
        "--gguf",
        str(tmp_path / "model.gguf"),
    ]
    assert command_line(options) == 2
    assert "absent is not a file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_random_blocks_use_every_code() -> None:
    (tensor,) = [tensor for tensor in gguf_tensors(TINY, "q4_0", "f16") if tensor.name == "blk.0.ffn_up.weight"]
    blocks = np.concatenate([part.reshape(-1, 18) for part in tensor.values(0)])
    assert len(np.unique(blocks[:, 2:] & 15)) == len(np.unique(blocks[:, 2:] >> 4)) == 16
