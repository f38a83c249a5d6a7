"""Positions beyond the training length: NTK and LogN hold under chunking, batching, preemption and prefix reuse.

The alpha of NTK belongs to a request: its prompt's length decides, and it stays the same however long the text becomes,
in however many pieces the prompt is computed, and whoever computed the beginning of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.models.load import load_model
from tests.engine.schedules import FixedCost, check_nothing_is_left
from tests.golden_data import golden_path
from tests.reference.naive_model import naive_logits, ntk_alpha
from tests.reference.tiny_model import CONFIG, tiny_network, tiny_weights

LENGTHS = {"max_position_embeddings": 400}  # 16 times the training length: alphas 1, 3, 7, 15, 31, 63
WEIGHTS = tiny_weights(**LENGTHS)
NETWORK = tiny_network(WEIGHTS, **LENGTHS)
NUM_TOKENS = 12
MARGIN = 2e-4  # two fp32 computations differ by 1e-5
BORDERS = (23, 24, 25, 47, 48, 49, 95, 96, 97, 191, 192, 193, 383, 384, 385)
STEM = tuple(torch.randint(CONFIG["vocab_size"], (400,), generator=torch.Generator().manual_seed(8)).tolist())


@cache
def oracle(
    prompt: tuple[int, ...], num_tokens: int = NUM_TOKENS, alpha_of: int | None = None, first_position: int = 0
) -> list[int]:
    """The naive model's greedy answer, which rounding cannot change; `alpha_of`: another length that decides."""
    ids = list(prompt)
    for _ in range(num_tokens):
        logits = naive_logits(
            CONFIG, WEIGHTS, ids, prompt_length=alpha_of or len(prompt), first_position=first_position
        )
        best = logits[-1].topk(2)
        assert best.values[0] - best.values[1] > MARGIN, "choose another seed"
        ids.append(int(best.indices[0]))
    return ids[len(prompt) :]


def engine_of(**settings: int | str) -> Engine:
    engine = Engine(NETWORK, EngineConfig(**{"num_blocks": 100, "speculation": "off"} | settings))
    engine.speculation.cost = FixedCost(0.0)
    return engine


def serve(engine: Engine, prompts: Sequence[Sequence[int]], num_tokens: int = NUM_TOKENS, **more: int) -> list[Request]:
    params = SamplingParams(temperature=0, max_tokens=num_tokens)
    requests = [engine.add_request(prompt, params, RequestOptions(**more)) for prompt in prompts]
    while engine.has_unfinished:
        engine.step()
        engine.block_manager.check_integrity()
    check_nothing_is_left(engine)
    return requests


def test_the_lengths_reach_all_alphas() -> None:
    assert {ntk_alpha(CONFIG, length) for length in BORDERS} == {1, 3, 7, 15, 31, 63}
    assert [ntk_alpha(CONFIG, length) for length in (24, 25, 48, 49, 96, 97)] == [1, 3, 3, 7, 7, 15]


@pytest.mark.parametrize("budget", [13, 100, 2048])
def test_prompts_round_every_border_answer_as_the_oracle_together_and_in_chunks(budget: int) -> None:
    prompts = [STEM[:length] for length in BORDERS]
    requests = serve(engine_of(max_num_batched_tokens=budget), prompts)
    assert [request.completion_ids for request in requests] == [oracle(prompt) for prompt in prompts]


@pytest.mark.parametrize("speculation", ["off", "prompt-lookup"])
@pytest.mark.parametrize("length", [20, 24, 44, 90])
def test_a_decode_that_crosses_a_border_keeps_the_alpha_of_its_prompt(length: int, speculation: str) -> None:
    prompt, num_tokens = STEM[:length], 30
    expected = oracle(prompt, num_tokens)
    assert ntk_alpha(CONFIG, length) != ntk_alpha(CONFIG, length + num_tokens)
    assert expected != oracle(prompt, num_tokens, alpha_of=length + num_tokens), "this prompt would not show it"
    for budget in (7, 2048):
        found = serve(engine_of(max_num_batched_tokens=budget, speculation=speculation), [prompt], num_tokens)[0]
        assert found.completion_ids == expected


def test_a_request_that_is_preempted_behind_a_border_keeps_the_alpha_of_its_prompt() -> None:
    """Prompt and completion are computed again as if they were one: together they are longer than the border."""
    prompts = [STEM[:20], STEM[5:25], STEM[1:23]]
    for enable_prefix_caching in (True, False):
        engine = engine_of(num_blocks=7, max_model_len=96, enable_prefix_caching=enable_prefix_caching)
        requests = serve(engine, prompts, 40)
        assert [request.completion_ids for request in requests] == [oracle(prompt, 40) for prompt in prompts]
        assert sum(request.num_preemptions for request in requests) > 0


@pytest.mark.parametrize(
    ("first", "second", "num_cached"),
    [
        (24, 24, 16),  # alpha 1 both
        (24, 25, 0),  # 1 and 3
        (25, 24, 0),
        (33, 48, 32),  # 3 both
        (48, 33, 32),
        (48, 49, 0),  # 3 and 7
        (96, 49, 48),
        (97, 192, 96),  # 15 both
        (192, 193, 0),  # 15 and 31
        (385, 384, 0),  # 63 and 31
        (390, 386, 384),  # 63 both
    ],
)
def test_only_prompts_of_one_alpha_share_their_beginning(first: int, second: int, num_cached: int) -> None:
    engine = engine_of(max_num_batched_tokens=64)
    for length, expected in ((first, 0), (second, num_cached)):
        found = serve(engine, [STEM[:length]], 8)[0]
        assert (found.num_cached_tokens, found.completion_ids) == (expected, oracle(STEM[:length], 8))


def test_a_text_that_grew_over_a_border_is_not_found_by_the_prompt_that_holds_it() -> None:
    """The answer was computed with the alpha of a short prompt; as a prompt of its own it has a larger one."""
    engine, prompt = engine_of(), STEM[:40]
    answered = (*prompt, *serve(engine, [prompt], 24)[0].completion_ids)
    assert ntk_alpha(CONFIG, 40) != ntk_alpha(CONFIG, len(answered))
    found = serve(engine, [answered])[0]
    assert (found.num_cached_tokens, found.completion_ids) == (0, oracle(answered))


def test_a_padded_row_has_its_own_positions_and_shares_with_rows_of_the_same_padding() -> None:
    prompt, engine = STEM[:40], engine_of(max_num_batched_tokens=30)
    for first_position, num_cached in ((0, 0), (10, 0), (10, 32), (0, 32), (200, 0)):
        found = serve(engine, [prompt], first_position=first_position)[0]
        assert found.num_cached_tokens == num_cached
        assert found.completion_ids == oracle(prompt, first_position=first_position)


@pytest.mark.parametrize("budget", [16, 50])
def test_chunks_and_prefix_reuse_leave_the_originals_ids(budget: int) -> None:
    """The original code's decodes across multiples of seq_length (golden set tiny-7b), in chunks and found again."""
    golden = load_file(golden_path("tiny-7b/golden.safetensors"))
    engine = Engine(load_model(golden_path("tiny-7b"), dtype="fp32"), EngineConfig(max_num_batched_tokens=budget))
    cases = sorted({key.split(".")[0] for key in golden if key.startswith("decode")})
    assert cases, "the golden set holds no decodes"
    for case in cases * 2:
        expected = golden[f"{case}.greedy_ids"].tolist()
        prompt = golden[f"{case}.prompt_ids"].tolist()
        assert serve(engine, [prompt], len(expected))[0].completion_ids == expected
    again = serve(engine, [prompt], 1)[0]
    assert again.num_cached_tokens == (len(prompt) - 1) // 16 * 16
