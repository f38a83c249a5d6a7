"""The engine's greedy decoding against the original code: ids, and the logits that each id was chosen from."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from qwartet.engine.engine import Engine
from qwartet.engine.request import RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.models.load import load_model
from tests.golden_data import golden_path

TOLERANCE = {"fp32": 2e-4, "bf16": 0.4}
SETS = ["tiny-72b", "tiny-72b-base-sharded", "gptq-int4", "gptq-int8-allbias", "gptq-int4-descact"]


def greedy(model, prompts: list[list[int]], num_tokens: int, first_positions: list[int] | None = None):
    """Ids [B, n] and the logits [B, n, V] that they were chosen from."""
    engine = Engine(model)
    seen: list[list[torch.Tensor]] = [[] for _ in prompts]
    params = SamplingParams(max_tokens=num_tokens, temperature=0)
    options = [
        RequestOptions((), first, (lambda logits, _ids, row=row: (seen[row].append(logits.clone()), logits)[1],))
        for row, first in enumerate(first_positions or [0] * len(prompts))
    ]
    requests = [engine.add_request(prompt, params, one) for prompt, one in zip(prompts, options, strict=True)]
    while engine.has_unfinished:
        engine.step()
        engine.block_manager.check_integrity()
    assert engine.block_manager.num_free_blocks == engine.block_manager.num_blocks
    ids = torch.tensor([request.completion_ids for request in requests])
    return ids, torch.stack([torch.stack(rows) for rows in seen])


def assert_same_path(ids, logits, golden_ids, golden_logits, margins, dtype: str) -> None:
    """Equal up to the first step whose margin is below twice the tolerance of the dtype (the golden README's rule)."""
    tolerance = TOLERANCE[dtype]
    for row in range(len(golden_ids)):
        unsafe = (margins[row] < 2 * tolerance).nonzero()
        safe = int(unsafe[0]) if len(unsafe) and dtype != "fp32" else len(golden_ids[row])
        assert ids[row, :safe].tolist() == golden_ids[row, :safe].tolist()
        # the logits of the first unsafe step still follow from equal ids
        compared = min(safe + 1, len(golden_ids[row]))
        assert (logits[row, :compared] - golden_logits[row, :compared]).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SETS)
def test_greedy_decoding_is_the_originals(name: str, dtype: str) -> None:
    golden = load_file(golden_path(f"{name}/golden.safetensors"))
    model = load_model(golden_path(name), dtype=dtype)
    ids, logits = greedy(model, [golden["prompt_ids"].tolist()], len(golden["greedy_ids"]))
    expected = (golden[key][None] for key in ("greedy_ids", "greedy_logits", "greedy_margin"))
    assert_same_path(ids, logits, *expected, dtype)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_decode_that_crosses_seq_length_keeps_the_alpha_of_its_prefill(dtype: str) -> None:
    golden = load_file(golden_path("tiny-7b/golden.safetensors"))
    model = load_model(golden_path("tiny-7b"), dtype=dtype)
    cases = sorted({key.split(".")[0] for key in golden if key.startswith("decode")})
    assert cases, "the golden set holds no decodes"
    for case in cases:
        prompt = golden[f"{case}.prompt_ids"].tolist()
        ids, logits = greedy(model, [prompt], len(golden[f"{case}.greedy_ids"]))
        expected = (golden[f"{case}.{key}"][None] for key in ("greedy_ids", "greedy_logits", "greedy_margin"))
        assert_same_path(ids, logits, *expected, dtype)


@pytest.mark.parametrize("name", ["tiny-72b", "tiny-7b"])
def test_a_left_padded_batch_is_the_originals(name: str) -> None:
    """Padding is left out of the batch; only its width remains, as the position of the first token."""
    golden = load_file(golden_path(f"{name}/golden.safetensors"))
    model = load_model(golden_path(name), dtype="fp32")
    mask = golden["batch.attention_mask"].bool()
    prompts = [ids[keep].tolist() for ids, keep in zip(golden["batch.input_ids"], mask, strict=True)]
    padding = (~mask).sum(-1).tolist()
    expected = [golden[f"batch.greedy_{key}"] for key in ("ids", "logits", "margin")]
    ids, logits = greedy(model, prompts, expected[0].shape[1], padding)
    assert_same_path(ids, logits, *expected, "fp32")
