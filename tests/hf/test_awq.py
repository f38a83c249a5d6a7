"""AWQ in transformers: loaded as the GPTQ weights that it becomes, and saved as them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from qwartet import LLM
from qwartet.errors import SettingError
from tests.hf.loaded import GptqLinear, load
from tests.quant_format.awq_reference import make_awq
from tests.tiny_checkpoint import Copy

IDS = [1, 2, 3, 300, 5]


@pytest.fixture
def awq(checkpoint: Copy, tmp_path: Path) -> Path:
    return make_awq(Path(shutil.copytree(checkpoint(bits=4), tmp_path / "awq")))


def logits(directory: Path, dtype: str) -> torch.Tensor:
    with LLM(directory, dtype=dtype, device="cpu") as llm:
        return llm.logits(IDS)


@pytest.mark.parametrize(("dtype", "short"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_the_logits_are_those_of_llm(awq: Path, dtype: str, short: str) -> None:
    with torch.no_grad():
        found = load(awq, dtype=dtype)(torch.tensor([IDS])).logits[0]
    assert (found - logits(awq, short)).abs().max() <= 1e-5


def test_it_is_saved_as_gptq_version_2_with_the_same_logits(awq: Path, tmp_path: Path) -> None:
    model = load(awq, dtype="float16")
    assert isinstance(model.transformer.h[0].mlp.w1, GptqLinear)
    model.save_pretrained(tmp_path / "saved")
    embedded = json.loads((tmp_path / "saved/config.json").read_text())["quantization_config"]
    assert (embedded["quant_method"], embedded["checkpoint_format"]) == ("gptq", "gptq_v2")
    assert logits(tmp_path / "saved", "fp32").equal(logits(awq, "fp32"))


def test_float_linears_are_left_to_llm(checkpoint: Copy) -> None:
    with pytest.raises(SettingError, match="some linear layers are not quantised, which LLM supports; use that"):
        load(make_awq(checkpoint(bits=4), floats=("mlp.w1",)))
