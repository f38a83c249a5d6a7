"""What cannot be converted to the Qwen2 layout is refused by name, before anything is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qwartet.convert.to_qwen2 import convert_to_qwen2
from qwartet.errors import CheckpointError, CheckpointWarning, VocabularyError
from tests.convert.stock import json_of
from tests.models.broken import edit_json, edit_tensors
from tests.tiny_checkpoint import Copy


def adapter(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen-7B-Chat"}))


def gguf(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()
    (directory / "model.gguf").touch()


def config(**changes: object) -> Callable[[Path], None]:
    return lambda directory: edit_json(directory / "config.json", changes)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    return lambda directory: edit_tensors(directory / "model.safetensors", change)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (adapter, "holds a LoRA adapter for 'Qwen/Qwen-7B-Chat', not a complete model; merge it"),
        (gguf, "a GGUF file of llama.cpp"),
        (lambda directory: (directory / "config.json").unlink(), "file is missing"),
        (config(visual={"layers": 48}), "is of a Qwen-VL checkpoint"),
        (config(model_type="qwen2", architectures=["Qwen2ForCausalLM"]), "model_type is 'qwen2'"),
        (config(model_type="chatglm"), "model_type is 'chatglm'"),
        (config(rotary_pct=0.5), r"rotary_pct rotates 64 of 128 elements of a head, which the Qwen2 layout cannot"),
        (config(num_hidden_layers=1), "tensors of further layers"),
        (config(intermediate_size=512), r"shape is \[128, 128\]; config\.json implies \[256, 128\]"),
        (tensors(lambda all: all.pop("transformer.ln_f.weight")), "missing tensors: transformer.ln_f.weight"),
        (tensors(lambda all: all["transformer.ln_f.weight"].fill_(torch.nan)), "128 of 128 values are NaN or infinite"),
        (tensors(lambda all: all.update({"x.lora_A.weight": torch.ones(2)})), "holds a LoRA adapter"),
        (lambda directory: os.truncate(directory / "model.safetensors", 5000), "holds .* bytes of tensors"),
        (lambda directory: (directory / "model.safetensors").rename(directory / "model.bin"), "only pickled weights"),
        (lambda directory: (directory / "qwen.tiktoken").write_text("AA== 0\n"), "single bytes have no rank"),
        (config(quantization_config=AWQ), "quantised by AWQ; only float and GPTQ checkpoints are converted"),
    ],
)
def test_a_source_of_another_kind_or_damaged_is_refused(
    checkpoint: Copy, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    directory = checkpoint()
    damage(directory)
    with pytest.raises((CheckpointError, VocabularyError), match=words):
        convert_to_qwen2(directory, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_stop_words_of_one_token_end_an_answer_and_longer_ones_are_told(checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint(chat_format="raw")
    edit_json(directory / "generation_config.json", {"stop_words_ids": [[304], [7], [33975, 25]]})
    with pytest.warns(CheckpointWarning, match=r"multi-token stop_words_ids are left out: \[\(33975, 25\)\]"):
        convert_to_qwen2(directory, tmp_path / "converted")
    assert json_of(tmp_path / "converted" / "generation_config.json")["eos_token_id"] == [304, 7]


@pytest.mark.parametrize(("chat_format", "ends"), [("chatml", [306, 305, 304]), ("raw", 304)])
def test_a_chat_model_has_the_template_and_ends_where_the_published_chat_does(
    pristine, tmp_path: Path, chat_format: str, ends: object
) -> None:
    convert_to_qwen2(pristine(chat_format=chat_format), tmp_path / "converted")
    tokenizer = json_of(tmp_path / "converted" / "tokenizer_config.json")
    is_chat = chat_format == "chatml"
    assert ("chat_template" in tokenizer, tokenizer["eos_token"]) == (
        is_chat, "<|im_end|>" if is_chat else "<|endoftext|>",
    )  # fmt: skip
    sampling = json_of(tmp_path / "converted" / "generation_config.json")
    assert (sampling["eos_token_id"], sampling["pad_token_id"]) == (ends, 304)
    assert json_of(tmp_path / "converted" / "config.json")["eos_token_id"] == (306 if is_chat else 304)


def test_licences_are_copied_and_remote_code_is_not(checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint()
    for name in ("LICENSE", "NOTICE", "modeling_qwen.py"):
        (directory / name).write_text(name)
    convert_to_qwen2(directory, tmp_path / "converted")
    names = {path.name for path in (tmp_path / "converted").rglob("*")}
    assert {"LICENSE", "NOTICE"} < names and "modeling_qwen.py" not in names
    assert "auto_map" not in json_of(tmp_path / "converted" / "config.json")
