"""Logits and greedy continuations are those of stock transformers, for every option of Qwen2 and Qwen3."""

from __future__ import annotations

import warnings

import pytest
import torch

from qwartet import LLM, SamplingParams
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import load_model
from tests.families.stock import CASES, TOLERANCE, prompt, stock_greedy, stock_logits

NUM_TOKENS = 200
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_are_those_of_transformers(stock, case: str) -> None:
    model, directory = stock(case)
    network = load_model(directory, dtype="fp32")
    for length in (1, 300):
        found = network(dense_batch([prompt(length)], network.config.position))
        torch.testing.assert_close(found, stock_logits(model, prompt(length)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_the_parameters_are_counted(stock, case: str) -> None:
    model, directory = stock(case)
    config = load_model(directory, dtype="fp32").config
    assert config.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, stock):
    """A stock model, and the engine on its checkpoint with steps of 48 tokens: longer prompts come in chunks."""
    model, directory = stock(request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no tokenizer
        with LLM(directory, dtype="fp32", max_num_batched_tokens=48, max_model_len=512) as llm:
            yield model, llm


def test_greedy_ids_are_those_of_transformers_in_batches_in_chunks_and_after_prefix_hits(pair) -> None:
    model, llm = pair
    prompts = [list(prompt(20)), list(prompt(100, 1)), list(prompt(45, 2))]
    expected = [stock_greedy(model, ids, NUM_TOKENS) for ids in prompts]
    assert [one.token_ids for one in llm.generate(prompts, GREEDY)] == expected
    again = llm.generate(prompts[1], GREEDY)[0]
    assert again.num_cached_tokens >= 96 and list(again.token_ids) == expected[1]
    turn = [*prompts[1], *expected[1][:50], *prompt(7, 3)]  # a conversation that goes on
    longer = llm.generate(turn, GREEDY)[0]
    assert longer.num_cached_tokens >= 144 and list(longer.token_ids) == stock_greedy(model, turn, NUM_TOKENS)
