"""The processors, in their order, against those of transformers 4.37: scores and probabilities of every setting."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from qwartet.engine.gumbel import candidates
from qwartet.engine.request import Request
from qwartet.engine.sampler import Row, process_rows
from qwartet.engine.sampling_params import SamplingParams
from tests.golden_data import golden_json, golden_path

TOLERANCE = 1e-6  # the golden README's
DESCRIPTIONS = {"name", "kept_per_row"}


def processed(logits: torch.Tensor, request: Request) -> torch.Tensor:
    changed = logits.clone()
    process_rows(changed[None], [Row(request, 0, 0)], {})
    return changed


def sampled_from(logits: torch.Tensor, request: Request) -> torch.Tensor:
    """The scores [V] whose softmax is sampled from."""
    token_ids, scores = candidates(processed(logits, request), request.params)
    assert len(set(token_ids.tolist())) == len(token_ids)
    return torch.full_like(logits, -torch.inf).index_copy(0, torch.tensor(token_ids), torch.tensor(scores).float())


def test_scores_and_probabilities_are_the_originals() -> None:
    settings = golden_json("logits_processing.json")
    golden = load_file(golden_path("logits_processing.safetensors"))
    assert settings, "the golden set holds no settings"
    for setting in settings:
        name = setting["name"]
        params = SamplingParams().updated({key: value for key, value in setting.items() if key not in DESCRIPTIONS})
        for row, (logits, seen) in enumerate(zip(golden["logits"], golden["prev_ids"].tolist(), strict=True)):
            scores = sampled_from(logits, Request(0, seen, params))
            where = f"{name}, row {row}"
            assert int(scores.isfinite().sum()) == setting["kept_per_row"][row], where
            expected = {"scores": golden[f"{name}.scores"][row], "probs": golden[f"{name}.probs"][row]}
            torch.testing.assert_close(scores, expected["scores"], rtol=TOLERANCE, atol=TOLERANCE, msg=where)
            torch.testing.assert_close(scores.softmax(-1), expected["probs"], rtol=0, atol=TOLERANCE, msg=where)


def test_ids_seen_in_the_completion_are_penalised_like_those_of_the_prompt() -> None:
    golden = load_file(golden_path("logits_processing.safetensors"))
    logits, seen = golden["logits"][0], golden["prev_ids"][0].tolist()
    params = SamplingParams(repetition_penalty=1.3)
    in_prompt = processed(logits, Request(0, seen, params))
    split = Request(0, seen[:5], params, completion_ids=seen[5:])
    assert torch.equal(processed(logits, split), in_prompt)
    assert pytest.approx(in_prompt.tolist()) != logits.tolist()
