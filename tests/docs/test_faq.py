"""docs/faq.md and its Chinese twin: every answer is run, computed, or proved by a test that is named here."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet import DEMO, AutoModelForCausalLM, AutoTokenizer
from qwartet.bench.synth import plan_synthesis
from qwartet.cli.main import command_tree
from qwartet.cli.settings.configuration import verbs
from qwartet.engine.engine_config import EngineConfig
from qwartet.llm import resolve_device
from qwartet.models.generation_config import GenerationDefaults
from qwartet.models.shapes import SHAPES, ShapeName, gptq_config
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS
from tests.cli.command_line import CommandLine, run_in_process
from tests.documents import blocks, commands, prose, run_example, text_of
from tests.hub.fake_hub import NAME, TINY_MODEL, FakeHub
from tests.tokenizer.vocabularies import published_tokenizer

ENGLISH, CHINESE = "docs/faq.md", "docs/faq.zh.md"
BOTH = pytest.mark.parametrize("name", [ENGLISH, CHINESE])

# Without a model, a hub or a server: these are run.
CHEAP = ("plan", "list", "cache", "doctor", "chat --device cpu")

HERE = {
    "Hugging Face cannot be reached. What now?": "test_a_model_of_modelscope_keeps_its_prefix",
    "How much disk space does it need?": "test_the_sizes_of_the_files_and_of_the_memory",
    "Why does a long context of 72B need so much memory?": "test_the_kv_cache_of_72b",
    "Is Int4 slower than fp16?": "test_bytes_that_a_token_reads",
    "How many users can one server answer at once?": "test_defaults",
    "How do I stop at a word of my own?": "test_the_cards_interface_keeps_the_stop_word_and_streams_whole_texts",
    "The answer never stops. Why?": "test_ids_and_lengths",
    "Can I add tokens to the vocabulary?": "test_ids_and_lengths",
    "Does it use my GPU?": "test_auto_chooses_a_gpu_if_there_is_one",
}
ELSEWHERE = {
    "I have the files already. Do I have to download them again?": [
        "tests/hub/test_resolve.py::test_a_model_in_a_place_of_modelscopes_own_library_is_found",
        "tests/checkpoint/test_checkpoint_errors.py::test_ck03_what_a_wrong_file_looks_like_is_said",
    ],
    "Does it work without a network?": [
        "tests/hub/test_resolve.py::test_a_model_that_is_here_is_used_without_asking_the_hub",
        "tests/hub/test_pull.py::test_rel_19_offline_no_connection_is_tried",
    ],
    "The download broke off. How do I know that the files are intact?": [
        "tests/hub/test_pull.py::test_rel_20_a_connection_that_is_cut_is_resumed_where_it_broke",
        "tests/cli/test_model_store.py::test_sec_24_verify_finds_a_flipped_bit_names_the_file_and_pull_repairs_it",
    ],
    "My checkpoint has only `*.bin` files. How do I load it?": [
        "tests/convert/test_pickled.py::test_a_pickle_that_would_run_code_is_refused_and_runs_none",
    ],
    "Can I run Qwen1.5, Qwen2, Qwen-VL, GGUF or AWQ files?": [
        "tests/models/test_config.py::test_a_wrong_value_is_refused_with_its_key_and_value",
        "tests/checkpoint/test_checkpoint_errors.py::test_a_directory_without_safetensors_is_refused",
    ],
    "May I use the models commercially?": [
        "tests/hub/test_pull.py::test_data_and_the_licence_are_fetched_and_code_pickles_and_folders_are_not",
        "tests/cli/test_model_store.py::test_show_tells_source_commit_hashes_and_licence",
    ],
    "Can it use several GPUs or several machines?": [
        "tests/compat/test_modeling.py::test_devices_and_dtypes_are_read_in_every_form",
    ],
    "Do I need transformers, AutoGPTQ, optimum, flash-attn or vLLM?": [
        "tests/compat/test_published_recipes.py::test_quantised_models_with_auto_gptq",
    ],
    "Why is `trust_remote_code` ignored?": ["tests/test_fidelity.py::test_no_code_of_a_checkpoint_runs"],
    "It is slow. What should I check?": [
        "tests/cli/test_doctor.py::test_kernels_that_are_missing_are_a_problem_unless_that_was_asked_for",
    ],
    "Why does the first start take longer?": ["tests/checkpoint/test_weight_cache.py"],
    "Are the answers those of the original code?": ["tests/golden/test_decode.py", "tests/golden/test_chat.py"],
    "`temperature=0` raises an error. How do I turn sampling off?": [
        "tests/test_fidelity.py::test_values_out_of_range_are_value_errors",
    ],
    "What happens when a conversation outgrows the context?": [
        "tests/test_fidelity.py::test_the_query_counts_in_the_window",
        "tests/server/test_client_habits.py::test_a_prompt_that_is_too_long_is_told_in_openais_words",
    ],
    "Other engines answer long texts with gibberish. Does Qwartet?": [
        "tests/golden/test_network.py::test_ntk_and_logn_follow_the_prompt_length",
    ],
    'The answer is "!!!!!!". What is wrong?': [
        "tests/test_fidelity.py::test_an_fp16_checkpoint_runs_in_bf16",
        "tests/golden/test_network.py::test_zeros_stored_as_version_2_give_the_same_logits_as_version_1",
    ],
    "`probability tensor contains either inf, nan or element < 0`: does that happen here?": [
        "tests/checkpoint/test_weight_values.py::test_a_value_that_is_not_finite_is_refused_with_its_tensor",
        "tests/engine/test_engine_failures.py::test_a_row_that_is_not_finite_ends_its_request_alone",
    ],
    "`bos_id`, `eos_id` or `pad_id` is missing. What do I use?": ["tests/docs/test_tokenization.py"],
    "Can a user's text contain control tokens such as `<|im_end|>`?": [
        "tests/test_fidelity.py::test_special_tokens_in_user_text_are_plain_text",
        "tests/server/test_sec_text.py",
    ],
    "How do I serve other machines?": [
        "tests/server/test_sec_access.py::test_sec_14_others_are_not_served_without_a_key_by_accident",
    ],
    "Which model name does my client have to send?": [
        "tests/server/test_sec_access.py::test_sec_15_a_models_name_is_compared_and_never_a_path",
    ],
    "Do function calls work with streaming?": [
        "tests/openai_api/test_tool_answer.py::test_the_pieces_of_a_stream_are_the_message",
    ],
    "Does anything leave my machine?": [
        "tests/server/test_sec_logs.py::test_sec_17_neither_prompts_nor_keys_are_logged",
        "tests/cli/test_line_history.py::test_only_the_owner_can_read_them",
        "tests/cli/test_chat_url.py::test_lines_are_not_kept_where_that_is_not_wanted",
    ],
    "How do I quantise my own model?": ["tests/quantize/test_pipeline.py::test_a_killed_run_is_resumed"],
    "Can I fine-tune a model, or use a LoRA adapter?": [
        "tests/checkpoint/test_weight_files.py::test_the_directory_of_an_adapter_is_called_that",
    ],
    "Does Int4 cost accuracy?": ["tests/cli/test_evaluate.py::test_two_runs_are_compared"],
    "How do I repeat the model card's table of speed and memory?": [
        "tests/cli/test_profile.py::test_the_bundled_model_is_measured_in_processes_of_its_own",
    ],
}
NOT_TESTED = {
    "Does it run on Windows or macOS?": "says that it is not tested",
    "Can I merge a LoRA adapter into an Int4 checkpoint?": "a fact about the format",
    "Which other engines run these models?": "about other software",
}


def answers(name: str) -> dict[str, str]:
    """Question -> answer."""
    found = re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", text_of(name), re.MULTILINE | re.DOTALL)
    return dict(found)


@cache
def plan(*options: str) -> dict[str, Any]:
    """What `qwartet plan` says with 80 GB/s."""
    plan: dict[str, Any] = json.loads(run_in_process("plan", *options, "--bandwidth", "80", "--json").out)
    return plan


def is_cheap(arguments: list[str]) -> bool:
    line = re.sub(r"^--lang \w+ ", "", " ".join(arguments))
    return line.startswith(CHEAP) and "clear" not in line


@BOTH
def test_every_example_prints_what_it_shows(name: str) -> None:
    for block in blocks(name, "python"):
        run_example(block, {})


def test_every_answer_has_a_proof() -> None:
    found = answers(ENGLISH)
    runs = {question for question, text in found.items() if "```python" in text}
    runs |= {question for question, text in found.items() if any(map(is_cheap, commands_in(text)))}
    named = HERE.keys() | ELSEWHERE.keys() | NOT_TESTED.keys()
    assert (found.keys() - runs - named, named - found.keys()) == (set(), set())
    assert [test for test in HERE.values() if test not in globals()] == []
    for test in (test for tests in ELSEWHERE.values() for test in tests):
        path, _, function = test.partition("::")
        assert f"def {function}{'(' if function else ''}" in text_of(path), test


def commands_in(answer: str) -> list[list[str]]:
    found = re.findall(r"^qwartet (.*?)(?:  #.*)?$", answer, re.MULTILINE)
    return [line.split() for line in found]


def test_commands_that_need_no_model_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWARTET_DEBUG", raising=False)
    cheap = [arguments for arguments in commands(ENGLISH) if is_cheap(arguments)]
    assert len(cheap) > 6
    for arguments in cheap:
        outcome = CommandLine(capsys)(*arguments)
        assert outcome.code in (0, 1) if "doctor" in arguments else outcome.code == 0, outcome
        assert outcome.out.strip() and "bug" not in outcome.err, outcome


@BOTH
def test_extras_exist(name: str) -> None:
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    named = re.findall(r"pip install '\.\[(\w+)\]'", text_of(name))
    assert named and set(named) <= extras.keys()


@BOTH
def test_the_sizes_of_the_files_and_of_the_memory(name: str) -> None:
    rows = re.findall(r"^\| `Qwen/Qwen-(.*)-Chat-Int4` \| (.*) GiB \| (.*) GB \|$", prose(name), re.MULTILINE)
    sizes: dict[str, ShapeName] = {"1_8B": "1.8b", "7B": "7b", "14B": "14b", "72B": "72b"}
    assert [row[0] for row in rows] == list(sizes)
    for size, memory, files in rows:
        shape = sizes[size]
        num_bytes = sum(tensor.nbytes for tensor in plan_synthesis(SHAPES[shape], gptq_config("int4")).tensors)
        assert float(files) == round(num_bytes / 1e9, 1)
        assert float(memory) == pytest.approx(plan(shape, "--context", "4096")["total_bytes"] / 2**30, abs=0.06)
    assert f"{plan('72b', '--context', '4096')['kept_on_disk_bytes'] / 1e9:.1f} GB" in prose(name)


@BOTH
def test_the_kv_cache_of_72b(name: str) -> None:
    found = re.findall(r"([\d,]+)\s+KiB", prose(name))
    per_token = [row["bytes_per_token"] / 1024 for row in plan("72b", "--context", "4096")["kv_caches"]]
    assert [float(number.replace(",", "")) for number in found] == per_token
    assert "80" in prose(name) and (SHAPES["72b"].num_layers, SHAPES["72b"].num_heads) == (80, 64)


@BOTH
def test_bytes_that_a_token_reads(name: str) -> None:
    [(_, answer)] = [(q, text) for q, text in answers(name).items() if "Int4" in q and "fp16" in q]
    speeds = [plan("7b", "--precision", precision)["speed"] for precision in ("int4", "int8", "bf16")]
    read = [f"{speed['bandwidth_bytes_per_s'] / speed['most_tokens_per_s'] / 1e9:.1f}" for speed in speeds]
    assert re.findall(r"([\d.]+)\s+GB", answer) == read


@BOTH
def test_the_speed_without_native_kernels_is_the_readmes(name: str) -> None:
    [slower] = re.findall(r"those are ([\d.]+)x slower at decode and ([\d.]+)x at prompts", text_of("README.md"))
    assert re.search(slower[0] + r"\s.*" + slower[1] + r"\s", prose(name), re.DOTALL)


@BOTH
def test_defaults(name: str) -> None:
    text = prose(name)
    quantize = {one.name: one.default for one in verbs(command_tree())["quantize",].params}
    defaults = (
        EngineConfig.max_num_seqs,
        GenerationDefaults.max_new_tokens,
        quantize["num_samples"],
        f"{quantize['max_len']:,}",
    )
    assert [value for value in defaults if not re.search(rf"(?<![\w,.]){value}(?![\w,])", text)] == []
    python = tomllib.loads(text_of("pyproject.toml"))["project"]["requires-python"]
    assert f"Python {python.removeprefix('>=')}" in text


@BOTH
def test_ids_and_lengths(name: str) -> None:
    text = prose(name)
    ids = {token: SHAPES["72b"].num_ranks + number for number, token in enumerate(SPECIAL_TOKENS)}
    for token in ("<|im_end|>", "<|endoftext|>"):
        assert re.search(rf"{ids[token]}\s*[(（]`{re.escape(token)}`", text), token
    assert "205" in text and SPECIAL_TOKENS[-1] == "<|extra_204|>" and "`<|extra_204|>`" in text
    trained = {shape.seq_length for shape in SHAPES.values()}
    assert [length for length in trained if f"{length:,}" not in text] == []
    assert [name for name, shape in SHAPES.items() if not shape.uses_ntk_and_logn] == ["72b"]


@BOTH
def test_the_number_of_tokens_with_the_published_vocabulary(name: str) -> None:
    number = len(published_tokenizer().encode("你好，世界"))
    assert re.search(rf"(?:The published vocabulary needs|官方词表只需要) {number} ", prose(name))


@pytest.mark.parametrize("words", [[f"modelscope:{NAME}"], [NAME, "--source", "modelscope"]])
def test_a_model_of_modelscope_keeps_its_prefix(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = CommandLine(capsys)
    with FakeHub({NAME: TINY_MODEL}).serving() as hub:
        hub.become_the_hub(monkeypatch, tmp_path)
        assert run("pull", *words).code == 0
        assert run("show", f"modelscope:{NAME}").code == 0
        assert run("show", NAME).code == 2


def test_auto_chooses_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto").type == "cuda" and resolve_device("cpu").type == "cpu"


def test_the_cards_interface_keeps_the_stop_word_and_streams_whole_texts() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = AutoModelForCausalLM.from_pretrained(DEMO, device_map="cpu")
    settings = {"history": None, "do_sample": False}
    response, _ = model.chat(tokenizer, "What is 23 + 45?", stop_words_ids=[tokenizer.encode(" =")], **settings)
    assert response == "23 + 45 ="
    texts = list(model.chat_stream(tokenizer, "What is 23 + 45?", **settings))
    assert texts[-1] == "23 + 45 = 68"
    assert all(later.startswith(text) for text, later in pairwise(texts))


@BOTH
def test_names_of_python_exist(name: str) -> None:
    import qwartet.compat
    from qwartet import errors

    spans = set(re.findall(r"`([^`\n]+)`", prose(name)))
    errors_named = {span for span in spans if span.endswith("Error")}
    assert errors_named and [span for span in errors_named if not hasattr(errors, span)] == []
    for span in ("GenerationConfig", "make_context", "AutoGPTQForCausalLM"):
        assert span in spans and hasattr(qwartet.compat, span)
    assert hasattr(AutoTokenizer.from_pretrained(DEMO), "eod_id") and "tokenizer.eod_id" in spans


def test_the_published_accuracy_is_the_model_cards() -> None:
    [table] = re.findall(r"^\| published, zero-shot .*?(?=\n\n)", prose(ENGLISH), re.MULTILINE | re.DOTALL)
    figures = [[float(number) for number in re.findall(r"\d+\.\d", row)] for row in table.splitlines()[2:]]
    assert figures == [[74.4, 80.1, 76.4, 64.6], [73.5, 80.1, 73.5, 62.2], [73.4, 80.1, 75.3, 61.6]]
