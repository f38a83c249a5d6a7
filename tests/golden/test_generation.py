"""compat's generate() against the original's: every golden case, quirks included."""

from __future__ import annotations

import pytest
import torch

from qwartet.compat.modeling import AutoModelForCausalLM
from tests.golden_data import golden_json, golden_path


@pytest.fixture(scope="module")
def generation_cases():
    return golden_json("generation_cases.json")


def test_every_case_gives_the_originals_ids(generation_cases) -> None:
    directory = golden_path(generation_cases["model"])
    model = AutoModelForCausalLM.from_pretrained(str(directory), device_map="cpu", fp32=True).eval()
    for name in ("eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, generation_cases[name])
    for name, value in generation_cases["defaults"].items():
        setattr(model.generation_config, name, value)
    for case in generation_cases["cases"]:
        mask = None if case["attention_mask"] is None else torch.tensor(case["attention_mask"])
        output = model.generate(torch.tensor(case["input_ids"]), attention_mask=mask, **case["kwargs"])
        assert output.tolist() == case["output_ids"], case["name"]
